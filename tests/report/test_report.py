import copy
import inspect
import json
import math
import pickle
from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_callbacks.report import COLUMNS, OPTIONAL_COLUMNS, Histogram, LayerReport, Report
from ww_callbacks.report.report import SUMMARY_KEYS

finite = st.floats(allow_nan=False, allow_infinity=False)
histograms = st.builds(
    Histogram,
    low=finite,
    high=finite,
    counts=st.lists(st.integers(0, 99), max_size=5).map(tuple),
    rand_counts=st.none() | st.lists(st.integers(0, 99), max_size=5).map(tuple),
)
layer_reports = st.builds(
    LayerReport,
    name=st.text(max_size=5),
    kind=st.text(max_size=5),
    alpha=st.none() | finite,
    num_traps=st.none() | st.integers(0, 9),
    reliable=st.none() | st.booleans(),
    histogram=st.none() | histograms,
    spectrum=st.none() | st.lists(finite, max_size=4).map(tuple),
)


def layer(name: str, **columns: object) -> LayerReport:
    return LayerReport(name=name, kind="Linear", **columns)


def test_a_layer_behaves_as_a_frozen_dataclass():
    layer = LayerReport(name="fc", kind="Linear", alpha=2.5)
    for copied in (pickle.loads(pickle.dumps(layer)), copy.copy(layer), copy.deepcopy(layer), replace(layer)):
        assert copied == layer
        assert type(copied) is LayerReport
        assert hash(copied) == hash(layer)
    assert replace(layer, alpha=3.0) == LayerReport(name="fc", kind="Linear", alpha=3.0) != layer
    assert asdict(layer)["alpha"] == 2.5
    assert list(inspect.signature(LayerReport).parameters) == [each.name for each in fields(LayerReport)]
    assert repr(layer).startswith("LayerReport(name='fc', kind='Linear', role='other', ")
    with pytest.raises(FrozenInstanceError):
        layer.alpha = 3.0
    with pytest.raises(TypeError, match="unknown: beauty"):
        LayerReport(name="fc", kind="Linear", beauty=1)
    with pytest.raises(TypeError, match="missing or unknown: kind"):
        LayerReport(name="fc")


@given(st.lists(layer_reports, max_size=4))
def test_reports_travel_as_json(layers):
    report = Report(tuple(layers))
    assert Report.from_dicts(report.to_dicts()) == report
    assert Report.from_dicts(json.loads(json.dumps(report.to_dicts()))) == report


def test_unknown_columns_are_named():
    with pytest.raises(ValueError, match="beta"):
        LayerReport.from_dict({"name": "a", "kind": "b", "beta": 1})
    with pytest.raises(ValueError, match="width"):
        LayerReport.from_dict({"name": "a", "kind": "b", "histogram": {"width": 1}})


def test_histogram_and_spectrum_stand_beside_the_columns():
    bare = layer("a")
    full = layer("a", histogram=Histogram(0, 1, (1,)), spectrum=(1.0,))
    assert set(bare.to_dict()) == set(COLUMNS) - set(OPTIONAL_COLUMNS)
    assert set(full.to_dict()) - set(bare.to_dict()) == {"histogram", "spectrum"}
    assert list(Report((full,)).to_pandas().columns) == list(COLUMNS)


def test_pandas_holds_nan_for_what_does_not_exist():
    frame = Report((layer("a", alpha=2.0, vs_lognormal="undecided"), layer("b"))).to_pandas()
    assert frame.alpha.tolist()[0] == 2.0
    assert math.isnan(frame.alpha.tolist()[1])
    assert frame.vs_lognormal.tolist()[0] == "undecided"


def test_summary_counts_traps_over_all_layers():
    layers = (layer("a", num_traps=2), layer("b", num_traps=0), layer("c", num_traps=1), layer("d"))
    summary = Report.of(layers).summary()
    assert (summary["num_traps"], summary["num_trap_layers"]) == (3, 2)
    assert "num_traps" not in Report.of([layer("a")]).summary()


def test_counts_control_the_false_discovery_rate_over_layers():
    """A layer at p = 0.0009 is one of a thousand random layers, but counts beside layers that are certain."""
    fitted = {"alpha": 3.0, "reliable": True, "null": "arranged", "num_traps": 1}
    certain = [layer(f"c{i}", **fitted, null_pvalue=1e-9, trap_pvalue=1e-9) for i in range(9)]
    weak = layer("weak", **fitted, null_pvalue=0.0009, trap_pvalue=0.0009)
    random = [layer(f"r{i}", alpha=6.0, warning="no tail", null_pvalue=0.5, trap_pvalue=0.5) for i in range(9)]
    keys = ("num_reliable", "num_no_tail", "num_trap_layers")
    for layers, counts in [((*random, weak), (0, 10, 0)), ((*certain, weak), (10, 0, 10)), ((weak,), (1, 0, 1))]:
        summary = Report.of(layers).summary()
        assert tuple(summary[key] for key in keys) == counts


def test_means_run_over_the_counted_layers():
    layers = [layer("big", alpha=3.0, num_evals=100), layer("small", alpha=9.0, num_evals=30), layer("none")]
    report = Report.of(layers)
    assert report.counted == {"big"}
    assert report.summary()["alpha"] == 3
    assert Report.of(layers[1:]).summary()["alpha"] == 9


def test_what_a_report_does_not_have_is_named():
    report = Report((LayerReport(name="fc", kind="Linear", alpha=2.5, counted=True),))
    assert "fc" in report
    assert "head" not in report
    with pytest.raises(KeyError, match=r"no layer 'head'; the layers are \['fc'\]"):
        report["head"]
    for ask in (report.column, report.mean):
        with pytest.raises(ValueError, match="there is no column 'alhpa'; did you mean 'alpha'"):
            ask("alhpa")
    with pytest.raises(ValueError, match="metric: expected a numeric column such as 'alpha', got 'name'"):
        report.mean("name")
    for compare in (report.against, report.scale_collapse):
        with pytest.raises(TypeError, match=r"baseline: expected a Report, got dict; analyze\(model\) makes one"):
            compare({"fc": [[1.0]]})


def test_every_key_of_a_summary_is_known():
    names = {each.name for each in fields(LayerReport)}
    layer = LayerReport(name="fc", kind="Linear", counted=True, alpha=2.5, num_traps=1, learned_pvalue=0.5)
    assert set(Report((layer,)).summary()) <= set(SUMMARY_KEYS)
    assert {"alpha_median", "num_traps", "num_learned"} <= set(Report((layer,)).summary())
    assert len(set(SUMMARY_KEYS) & names) > 10
