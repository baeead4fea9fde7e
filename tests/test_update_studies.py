"""The studies of updates: their statistics, and that the page shows what the result files say."""

from __future__ import annotations

import csv
import importlib
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "evidence"))
    pytest.importorskip("mlxtend")
    return importlib.import_module


def test_auc_is_the_share_of_pairs(study):
    memorising, tables = study("memorising"), study("tables")
    wrong, right = np.random.default_rng(0).integers(0, 5, (2, 10)).astype(float)
    expected = stats.mannwhitneyu(wrong, right).statistic / 100
    drawn = tables.resampled(10)
    assert memorising.auc(wrong, right, drawn)[0] == pytest.approx(expected)
    again = np.repeat(np.arange(10), drawn[1].astype(int))
    expected = stats.mannwhitneyu(wrong[again], right[again]).statistic / 100
    assert memorising.auc(wrong, right, drawn)[1] == pytest.approx(expected)


def test_auc_leaves_out_missing_values(study):
    memorising = study("memorising")
    wrong, right = np.array([3.0, np.nan, 1.0]), np.array([2.0, 2.0, np.nan])
    assert memorising.auc(wrong, right, np.ones((1, 3)))[0] == pytest.approx(0.5)


@pytest.fixture
def rows():
    rng = np.random.default_rng(1)
    names = ("forgetting", "distance", "loss_after")
    return [dict(zip(names, map(str, rng.normal(size=3)), strict=True)) | {"loss_before": "0.5"} for _ in range(30)]


def test_rank_correlations(study, rows):
    forgetting = study("forgetting")
    own, control, loss = (np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "loss_before")
    assert forgetting.spearman(rows, "forgetting") == pytest.approx(stats.spearmanr(own, loss).statistic)
    ranks = [stats.rankdata(each) for each in (own, loss, control)]
    left = [each - np.polyval(np.polyfit(ranks[2], each, 1), ranks[2]) for each in ranks[:2]]
    assert forgetting.partial(rows, "forgetting") == pytest.approx(np.corrcoef(left)[0, 1])


def test_results_without_the_quantity_are_left_out(study, rows):
    forgetting = study("forgetting")
    missing = [{**row, "forgetting": ""} for row in rows[:5]]
    assert forgetting.spearman(missing + rows[5:], "forgetting") == forgetting.spearman(rows[5:], "forgetting")
    assert math.isnan(forgetting.spearman([{**row, "forgetting": "0"} for row in rows], "forgetting"))


def test_missing_runs_are_added_once(study, tmp_path):
    tables, made = study("tables"), []

    def run(name, seed):
        made.append((name, seed))
        return [{"name": name, "seed": seed, "value": tables.short(1 / 3)}]

    for count in (1, 2):
        found = tables.with_missing(tmp_path / "a.csv", ["name", "seed"], [("a", each) for each in range(count)], run)
    assert made == [("a", 0), ("a", 1)]
    assert [row["value"] for row in found] == ["0.3333", "0.3333"]


def test_findings_name_layers(study):
    updates_found = study("updates_found")
    import ww_callbacks as ww

    layers = [ww.LayerReport(name=f"net.{i}", kind="Linear", M=9, unchanged_since=0) for i in (0, 1, 10)]
    report = ww.report.Report.of([*layers, ww.LayerReport(name="net.2", kind="Linear", M=9)], 5)
    assert updates_found.named(report) == {"still": {"net.0", "net.1", "net.10"}}


def test_the_page_shows_the_results(study):
    page = (ROOT / "docs" / "updates.md").read_text(encoding="utf-8")
    memorising, updates_found, forgetting = study("memorising"), study("updates_found"), study("forgetting")
    labels, runs, tunings = (read(each.RESULTS) for each in (memorising, updates_found, forgetting))
    shown = [memorising.summary(labels, "all wrong"), updates_found.false_alarms(runs), updates_found.lost(runs)]
    for table in [*shown, forgetting.summary(tunings)]:
        assert "\n".join(table) in page
    assert "none had one (95 %: at most 1 %)" in page
    assert "0 %, 95 % interval 0 to 1 %" in updates_found.interval(runs)


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_cells_and_seeds_that_are_held_out_are_not_chosen_on(study):
    cells = study("cells")
    everything = cells.cells()
    parts = {name: {everything[number] for number in cells.numbers(name)} for name in cells.PARTS}
    assert [len(part) for part in parts.values()] == [24, 24, 24]
    assert len(set().union(*parts.values())) == 72
    seeds = [seed for mine in cells.PARTS.values() for seed in mine]
    assert len({*seeds, cells.RATE_SEED}) == len(seeds) + 1
    for factor in ("network", "scaling", "initialisation", "optimizer", "schedule", "mask"):
        assert len({len({getattr(cell, factor) for cell in part}) for part in parts.values()}) == 1
