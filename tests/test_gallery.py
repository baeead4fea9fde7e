"""The gallery shows the numbers and pictures that its script makes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")
MOST_BYTES = 60 * 1024


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DOCS))
    pytest.importorskip("mlxtend")
    return importlib.import_module("gallery")


@pytest.mark.parametrize("name", ["untrained", "heavy-tailed-noise", "uneven-rows", "one-huge-weight"])
def test_the_numbers_of_constructions_are_those_of_the_page(gallery: Any, name: str) -> None:
    assert gallery.row(gallery.constructed(name)) in PAGE.splitlines()


def test_each_picture_of_the_script_is_on_the_page_and_small(gallery: Any) -> None:
    shown = {f"gallery-{name}.png" for name in (*gallery.CONSTRUCTED, *gallery.TRAINED)}
    shown -= {f"gallery-{name}.png" for name in gallery.BESIDE.values()}
    assert set(re.findall(r"\(images/([^)]+)\)", PAGE)) == shown
    assert all((DOCS / "images" / name).stat().st_size <= MOST_BYTES for name in shown)


def test_the_overview_has_the_numbers_of_the_entries() -> None:
    titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    overview = re.findall(r"^\| \[(.+?)\]\(#.+?\) \| ([\d.]+) \| ([\d.]+) \|", PAGE, re.MULTILINE)
    assert [title for title, _, _ in overview] == titles
    for title, alpha, control in overview:
        text = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
        rows = re.findall(r"\| ([\d.]+) \([\d.]+ to [\d.]+\) \| ([\d.]+) \|", text)
        assert rows[-1] == (alpha, control)
