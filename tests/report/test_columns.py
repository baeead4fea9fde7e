"""Each column is declared once, and what is declared is true."""

import inspect
import math
import re
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer
from ww_callbacks.outputs.metrics import LAYER_METRICS
from ww_callbacks.report import SCHEMA, LayerReport
from ww_callbacks.report.columns import column, columns_of, documented
from ww_callbacks.report.comparison import METRICS
from ww_callbacks.report.scaling import divide_eigenvalues

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
NUMBERS = [name for name, each in SCHEMA.items() if each.kind in ("count", "number")]
UNITS = {
    "": "invariant",
    "· c²": "proportional",
    "/ c²": "inverse",
    "+ log10 c²": "log",
    "+ alpha · log10 c²": "alpha log",
}


def trained(seed: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((160, 30)), rng.standard_normal((30, 80))
    return rng.standard_normal((160, 80)) + (left * (rng.pareto(1.5, 30) + 0.3)) @ right * spread


def analyze(factor: float, **options: object) -> LayerReport:
    """A layer with every number, of weights and baseline that are multiplied by a factor."""
    now, before = ({"a": trained(0, w) * factor, "b": trained(1, 0.25) * factor} for w in (0.25, 0.2))
    return ww.analyze(now, baseline=before, gof=True, farms=True, **options)["a"]


def watch(factor: float) -> LayerReport:
    """A layer with the numbers of a training run: it starts with a trap, changes twice and then stays the same."""
    weights = {"a": trained(0, 0.2) * factor}
    weights["a"][3, 4] = 100 * factor
    with ww.Monitor(weights, every_n_steps=1, executor="sync", updates=True) as monitor:
        for step, spread in enumerate((0.21, 0.25, 0.25), start=1):
            weights["a"] = trained(0, spread) * factor
            monitor.step(step)
    return monitor.history[-1]["a"]


def adapter(factor: float) -> LayerReport:
    """A layer of low rank, which has no control."""
    rng = np.random.default_rng(0)
    stored = np.concatenate([rng.standard_normal((30, 160)) * factor, rng.standard_normal((30, 80))], axis=1)
    spec = LayerSpec("a", "LoRA", stored.shape, "float64", ((), (), ()), "adapter", factors=160)
    return analyze_layer(spec, stored, Settings())


RUNS = {
    "plain": analyze,
    "float32": partial(analyze, precision="float32"),
    "TPL": partial(analyze, fit="TPL"),
    "watched": watch,
}


@pytest.mark.parametrize("run", [*RUNS.values(), adapter], ids=[*RUNS, "adapter"])
def test_every_number_follows_its_declared_scaling(run):
    one, scaled = run(1.0), run(8.0)
    expected = divide_eigenvalues(one, 8.0**-2)
    for name in NUMBERS:
        value, wanted = getattr(scaled, name), getattr(expected, name)
        assert value is wanted is None or value == pytest.approx(wanted, rel=1e-9, abs=1e-12), name


def test_the_scaling_of_every_number_is_tried():
    reports = {name: run(1.0) for name, run in RUNS.items()}
    tried = [*reports.values(), adapter(1.0)]
    assert all(any(getattr(report, name) is not None for report in tried) for name in NUMBERS)
    varied = {name for name in NUMBERS if SCHEMA[name].scaling != "invariant"}
    assert all(getattr(report, name) for report in reports.values() for name in varied - {"Lambda"})
    assert reports["TPL"].Lambda > 0


def rows() -> list[tuple[list[str], str]]:
    """The names in each row of the tables of columns in docs/metrics.md, and their scaling there."""
    found = []
    for line in DOCS.read_text(encoding="utf-8").split("## Means and counts", 1)[0].splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)][1:-1]
        if cells and cells[0].startswith("`"):
            found.append((re.findall(r"`(\w+)`", cells[0]), cells[1]))
    return found


def test_the_documentation_has_a_row_for_every_column_and_its_scaling():
    documented = [name for names, _ in rows() for name in names]
    assert sorted(documented) == sorted(SCHEMA)
    assert {name: UNITS[unit] for names, unit in rows() for name in names} == {
        name: each.scaling for name, each in SCHEMA.items()
    }


def test_the_documentation_names_every_mean():
    text = DOCS.read_text(encoding="utf-8").split("## Means and counts", 1)[1]
    assert {name for name in SCHEMA if f"`ww/{name}`" in text} >= {name for name in METRICS if SCHEMA[name].mean}


def test_the_docstring_describes_every_field():
    section = inspect.getdoc(LayerReport).split("\nAttributes:\n")[1].splitlines()
    assert [line.split(":")[0] for line in section] == [f"    {each.name}" for each in fields(LayerReport)]
    assert all(line.split(": ", 1)[1] for line in section)


def test_lists_follow_from_the_fields():
    assert {name for name in SCHEMA if SCHEMA[name].mean} == set(METRICS) - {"log_alpha_norm"}
    assert set(LAYER_METRICS) == set(METRICS) - {"log_alpha_norm"} | {
        "rand_alpha",
        "num_traps",
        "ww_softrank",
        "trap_size",
        "lora_used",
    }
    assert set(LAYER_METRICS) | set(METRICS) <= set(NUMBERS)


def test_kinds_follow_from_the_annotations():
    @documented
    @dataclass
    class Row:
        """A row.

        More text.
        """

        text: str = column("a text", default="")
        choice: Literal["a", "b"] | None = column("a choice")
        one: Literal["a"] = column("a constant", default="a")
        flag: bool | None = column("a flag")
        count: int = column("a count", default=0, label="Count", mean=True)
        number: float | None = column("a number", scaling="log")
        other: tuple[float, ...] | None = column("not a column")

    columns = columns_of(Row)
    assert {name: each.kind for name, each in columns.items()} == {
        "text": "text",
        "choice": "text",
        "one": "text",
        "flag": "flag",
        "count": "count",
        "number": "number",
    }
    assert [columns["count"].label, columns["number"].label, columns["number"].scaling] == ["Count", "number", "log"]
    assert (columns["count"].mean, columns["count"].compared, columns["number"].compared) == (True, True, False)
    assert Row.__doc__.startswith("A row.\n\nMore text.\n\nAttributes:\n    text: a text\n")
    assert Row().count == 0


def test_numbers_without_a_value_stay_without_one():
    empty = LayerReport(name="a", kind="b")
    assert divide_eigenvalues(empty, 4.0) == empty
    layer = LayerReport(name="a", kind="b", alpha=3.0, log_alpha_norm=1.0, Lambda=2.0, log_norm=0.0)
    divided = divide_eigenvalues(layer, 100.0)
    assert (divided.alpha, divided.Lambda, divided.log_norm) == (3.0, 200.0, -2.0)
    assert math.isclose(divided.log_alpha_norm, -5.0)
