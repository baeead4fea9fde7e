"""Runs the code of the documentation: ``python -m pytest -p docs.run_code docs README.md CONTRIBUTING.md``.

Each page is one program. Its blocks share a namespace and run in a separate empty folder. A comment ``clear-namespace``
begins a new program.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.myst import ClearNamespaceParser, PythonCodeBlockParser, SkipParser


@pytest.fixture(scope="module", autouse=True)
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before, folder = Path.cwd(), tmp_path_factory.mktemp("page")
    os.chdir(folder)
    yield folder
    os.chdir(before)


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser(), ClearNamespaceParser()],
    path=str(Path(__file__).resolve().parents[1]),
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md"],
    fixtures=["empty_folder"],
).pytest()
