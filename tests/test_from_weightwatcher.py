"""The page for users of WeightWatcher has every option and column of the installed version, and its claims hold."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ww_callbacks as ww
from ww_callbacks import spectra

weightwatcher = pytest.importorskip("weightwatcher")

PAGE = (Path(__file__).parents[1] / "docs" / "from_weightwatcher.md").read_text(encoding="utf-8")
WITH_OPTIONS = ("analyze", "describe", "get_summary", "distances", "SVDSmoothing", "SVDSharpness")


def named(heading: str) -> list[str]:
    """The names in the first column of the table below a heading."""
    _, _, text = PAGE.partition(f"\n{heading}\n")
    assert text, f"the page has no heading {heading!r}"
    rows = [line.split("|")[1] for line in re.split(r"\n#", text)[0].splitlines() if line.startswith("|")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("method", ["__init__", *WITH_OPTIONS])
def test_every_option_has_a_row(method: str) -> None:
    found = named("### `WeightWatcher()`" if method == "__init__" else f"### `{method}()`")
    options = list(inspect.signature(getattr(weightwatcher.WeightWatcher, method)).parameters)
    assert sorted(found) == sorted(set(options) - {"self"})


def test_every_method_has_a_row() -> None:
    methods = {
        name
        for name, value in inspect.getmembers(weightwatcher.WeightWatcher)
        if callable(value) and not name.startswith("_")
    }
    headings = set(re.findall(r"^### `(\w+)\(\)`$", PAGE, re.MULTILINE)) - {"WeightWatcher"}
    others = named("### Other methods")
    assert headings | set(others) == methods
    assert len(others) == len(set(others)) == len(methods - headings)


def test_every_column_of_the_source_has_a_row() -> None:
    source = re.sub(r"^\s*#.*$", "", inspect.getsource(weightwatcher.weightwatcher), flags=re.MULTILINE)
    columns = set(re.findall(r"add_column\([\"'](\w+)[\"']", source))
    columns |= set(re.findall(r"data\[[\"'](\w+)[\"']\] [+/]?= ", source))
    columns |= {getattr(weightwatcher.METRICS, name) for name in re.findall(r"add_column\(METRICS\.(\w+)", source)}
    for prefix in re.findall(r"add_column\(\"(\w+)_\{\}\"", source):
        columns |= {f"{prefix}_{name}" for name in ("vec_entropy", "loc_ratio", "part_ratio")}
    assert set(named("## Columns")) == columns
    assert len(named("## Columns")) == len(columns)


@pytest.fixture(scope="module")
def models() -> list[nn.Module]:
    """Two networks whose dense layers have 40 and 12 eigenvalues."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 12)))
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        yield


@pytest.fixture(scope="module")
def details(models: list[nn.Module]) -> Any:
    """A frame with the default options, except that it has a row per kernel position."""
    with quiet():
        return weightwatcher.WeightWatcher(model=models[0]).analyze(pool=False)


def test_every_column_of_real_frames_has_a_row(details: Any, models: list[nn.Module]) -> None:
    with quiet():
        watcher = weightwatcher.WeightWatcher(model=models[0])
        every: dict[str, Any] = {"randomize": True, "mp_fit": True, "detX": True, "vectors": True}
        most = watcher.analyze(model=nn.Sequential(nn.Linear(12, 10)), fix_fingers="clip_xmax", **every)
        others = [watcher.describe(), watcher.distances(*models)[2]]
    columns = {column for frame in (details, most, *others) for column in frame.columns}
    assert {"num_traps", "detX_val", "raw_alpha", "tail_var_part_ratio", "slice_id", "delta_W"} <= columns
    assert columns <= set(named("## Columns"))


def test_a_layer_of_twelve_eigenvalues_has_weightwatchers_alpha(details: Any, models: list[nn.Module]) -> None:
    theirs = details.set_index("longname").loc["2"]
    ours = ww.analyze(models[0], min_evals=8)["2"]
    assert ours.num_evals == 12
    assert (ours.alpha, ours.D, ours.xmin) == pytest.approx((theirs.alpha, theirs.D, theirs.xmin), rel=1e-5)
    assert ww.analyze(models[0])["2"].alpha is None


def test_the_distance_of_a_layer_is_found_as_the_page_says(models: list[nn.Module]) -> None:
    with quiet():
        theirs = weightwatcher.WeightWatcher(model=models[0]).distances(*models, method="raw")[2]
    moved = ww.analyze(models[0], baseline=models[1], conv_scale="none")["0"]
    assert moved.update_norm is not None
    assert moved.norm is not None
    assert moved.update_norm * moved.norm**0.5 == pytest.approx(theirs["delta_W"].iloc[0], rel=1e-5)


def test_clipping_fingers_only_ever_lowers_alpha() -> None:
    """As the page says: on spectra of random layers, the clipped alpha is the fitted one or a smaller one."""
    from weightwatcher.RMT_Util import fit_clipped_powerlaw

    rng = np.random.default_rng(0)
    changes = []
    for _ in range(12):
        values = np.sort(np.linalg.eigvalsh(np.cov(rng.standard_normal((60, 90)))))
        with quiet():
            clipped, fingers, _ = fit_clipped_powerlaw(values)
        if fingers:
            assert clipped.alpha == spectra.fit_power_law(values[: -fingers - 1]).alpha
        changes.append(clipped.alpha - spectra.fit_power_law(values).alpha)
    assert max(changes) <= 0
    assert min(changes) < 0
