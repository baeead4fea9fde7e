"""A comparison as one file: what is said, the values, and each model as a run."""

import json
import re

import numpy as np
import pytest
from badnames import BAD_NAMES
from onefile import inflated, inlined

import ww_callbacks as ww
from ww_callbacks.page.comparison import comparison_page
from ww_callbacks.report import Comparison, LayerReport, Report

SIZE = (120, 60)


def weights(number=6):
    rng = np.random.default_rng(0)
    return {f"block{index}": rng.standard_normal(SIZE) for index in range(number)}


def tuned(base):
    """Hardly changed, apart from a collapsed layer, a trap, a lost layer, a new one, another size and NaN."""
    rng = np.random.default_rng(1)
    model = {name: array + 0.01 * rng.standard_normal(SIZE) for name, array in base.items()}
    model["block2"] *= 0.05
    model["block3"][3, 4] = 25
    model["block4"] = rng.standard_normal((120, 40))
    model["block5"][0, 0] = np.nan
    del model["block1"]
    return model | {"new": rng.standard_normal(SIZE), "bias": np.zeros(60)}


@pytest.fixture(scope="module")
def comparison():
    base = weights(8)
    return ww.compare({"base": base, "tuned": tuned(base)})


@pytest.fixture(scope="module")
def data(comparison):
    return inlined(comparison_page(comparison, "base, tuned"))


def test_the_verdict_counts_the_layers_and_names_the_most_serious_changes_first(data):
    said = data["runs"]["comparison"]
    (changes,) = said["changes"]
    assert said["base"] == "base"
    assert changes["run"] == "tuned"
    assert changes["text"] == (
        "tuned against base: 3 of 6 layers changed notably; 1 of another size; 1 only in tuned; 1 only in base"
    )
    names = [layer["name"] for layer in data["run"]["tuned"]["layers"]]
    words = {names[index]: text for index, text in changes["layers"]}
    assert list(words)[:2] == ["block5", "block2"]
    assert words.keys() == {"block2", "block3", "block4", "block5"}
    assert words["block5"] == "non-finite weights, the baseline has values"
    assert words["block2"].startswith("scale collapse: λ_max fell to 0.0025 times the baseline's")
    assert words["block3"].endswith("1 correlation trap: very large weights, [3, 4] = 25; the baseline has none")
    assert words["block4"].startswith("size differs from the baseline (120 x 60")


def test_the_models_are_runs_with_the_values_of_their_reports(comparison, data):
    assert [run["id"] for run in data["runs"]["runs"]] == ["base", "tuned"]
    for name, report in comparison.reports.items():
        alpha = np.frombuffer(inflated(data["columns"][name]["alpha"]), "<f4")
        np.testing.assert_allclose(alpha, np.array(report.column("alpha"), float), rtol=2e-4)
        cells = json.loads(inflated(data["cells"][name]["0"]))
        assert cells[0]["histogram"]["counts"] == list(report["block0"].histogram.counts)
    now, before = (np.frombuffer(inflated(data["columns"][name]["alpha"]), "<f4") for name in ("tuned", "base"))
    change = np.frombuffer(inflated(data["columns"]["tuned"]["delta_alpha"]), "<f4")
    assert change[0] == pytest.approx(now[0] - before[0], abs=2e-3)
    notes = {layer["name"]: layer["note"] for layer in data["run"]["tuned"]["layers"]}
    assert notes["block5"] == "non-finite weights"
    assert notes["bias"].startswith("no matrix")


def test_means_correlations_and_conclusions_are_those_of_the_comparison():
    models = {f"m{index}": {name: 1.3**index * array for name, array in weights(2).items()} for index in range(4)}
    comparison = ww.compare(models, quality={name: index for index, name in enumerate(models)}, randomize=False)
    said = inlined(comparison_page(comparison, "four"))["runs"]["comparison"]
    assert said["models"] == comparison.table()
    assert said["correlations"] == comparison.correlation_table() != []
    assert said["conclusions"] == comparison.conclusions()
    assert said["conclusions"][0].startswith("n = 4 models")
    assert [changes["text"] for changes in said["changes"]] == [
        f"m{index} against m0: none of 2 layers changed notably" for index in (1, 2, 3)
    ]


def test_models_without_a_common_layer_are_compared_by_their_means_only():
    rng = np.random.default_rng(0)
    models = {"one": {"a": rng.standard_normal(SIZE)}, "two": {"b": rng.standard_normal(SIZE)}}
    said = inlined(comparison_page(ww.compare(models, randomize=False), ""))["runs"]["comparison"]
    (changes,) = said["changes"]
    assert changes["text"] == "two and one have no layer of the same name: only their means can be compared."
    assert changes["layers"] == []


@pytest.mark.parametrize(
    "report",
    [
        Report(()),
        Report((LayerReport(name="fc", kind="Linear", status="failed", skip_reason="non_finite", reason="NaN"),)),
        ww.analyze({"only": np.random.default_rng(0).standard_normal(SIZE)}, randomize=False),
    ],
    ids=["no layer", "a failed layer", "a single layer"],
)
def test_one_model_and_a_model_with_itself_have_a_page(report):
    alone = inlined(comparison_page(Comparison({"a": report}), "alone"))
    assert alone["runs"]["comparison"]["changes"] == []
    both = inlined(comparison_page(Comparison({"a": report, "b": report}), "twice"))
    assert both["runs"]["comparison"]["changes"][0]["layers"] == []
    assert both["run"]["b"]["layers"] == both["run"]["a"]["layers"]


def test_names_of_models_and_layers_cannot_leave_the_data():
    names = (*BAD_NAMES, "</script><script>alert(1)</script>", "<!-- <script>")
    layers = tuple(LayerReport(name=name, kind="Linear", M=60, alpha=2.0, norm=1.0) for name in names)
    worse = tuple(LayerReport(name=name, kind="Linear", M=60, reason="<script>x") for name in names)
    reports = {name: Report(worse if index else layers) for index, name in enumerate(names)}
    page = comparison_page(Comparison(reports), "</title><script>alert(1)</script>")
    assert page.count("<script") == 2
    assert "alert(1)</script>" not in page
    data = inlined(page)
    assert list(data["run"]) == list(names)
    assert len(data["runs"]["comparison"]["changes"][0]["layers"]) == len(names)
    shown = json.dumps(data["runs"]["comparison"]["changes"][0]["text"])
    assert not re.search(r"\\u001b|\\u202e", shown)


def test_a_model_analysed_against_its_base_keeps_what_its_weights_say():
    rng = np.random.default_rng(0)
    base = {name: rng.standard_normal((80, 60)) for name in ("still", "noisy")}
    report = ww.analyze(base | {"noisy": base["noisy"] + 0.3 * rng.standard_normal((80, 60))}, baseline=base)
    comparison = Comparison({"base": report.baseline, "tuned": report})
    said = inlined(comparison_page(comparison, "tuned"))["runs"]["comparison"]
    (changes,) = said["changes"]
    assert changes["text"].startswith("tuned against base: 2 of 2 layers changed notably")
    assert dict(changes["layers"]) == {0: "has not moved", 1: report["noisy"].change}
    assert "as noise does" in report["noisy"].change
    assert said["by_weights"] is True
    spectra_only = Comparison({"base": ww.analyze(base), "tuned": ww.analyze(base)})
    assert inlined(comparison_page(spectra_only, "tuned"))["runs"]["comparison"]["by_weights"] is False
