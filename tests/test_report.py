import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_callbacks.report import COLUMNS, Histogram, History, LayerReport, Report

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
    assert set(bare.to_dict()) == set(COLUMNS)
    assert set(full.to_dict()) == {*COLUMNS, "histogram", "spectrum"}
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


def test_means_run_over_the_counted_layers():
    layers = [layer("big", alpha=3.0, num_evals=100), layer("small", alpha=9.0, num_evals=30), layer("none")]
    report = Report.of(layers)
    assert report.counted == {"big"}
    assert report.summary()["alpha"] == 3
    assert Report.of(layers[1:]).summary()["alpha"] == 9


def test_correlation_flow():
    flow = Report(
        (layer("a", alpha=2.0), layer("skipped"), layer("b", alpha=4.0), layer("c", alpha=6.0))
    ).correlation_flow()
    assert flow.names == ("a", "b", "c")
    assert (flow.mean, flow.std, flow.slope) == (4.0, 2.0, 4.0)
    empty, single = Report(()).correlation_flow(), Report((layer("a", alpha=2.0),)).correlation_flow()
    assert (empty.mean, empty.slope) == (None, None)
    assert (single.mean, single.std, single.slope) == (2.0, None, None)


def scales(**values: float | None) -> Report:
    return Report(tuple(layer(name, log_spectral_norm=value) for name, value in values.items()))


def test_scale_collapse_finds_the_layer_that_moved():
    before = scales(a=0.0, b=1.0, c=0.5, d=0.2, e=0.1, gone=1.0)
    after = scales(a=0.01, b=1.02, c=-0.9, d=0.19, e=0.13, new=1.0)
    changes = {change.name: change for change in after.scale_collapse(before)}
    assert list(changes) == ["a", "b", "c", "d", "e"]
    assert changes["c"].change == pytest.approx(-1.4)
    assert [name for name, change in changes.items() if abs(change.z) > 3.5] == ["c"]


def test_scale_collapse_where_most_layers_stand_still():
    names = "abcdefgh"
    before = scales(**dict.fromkeys(names, 0.0))
    after = scales(**(dict.fromkeys(names, 0.0) | {"a": 1.0}))
    assert {c.name for c in after.scale_collapse(before) if abs(c.z) > 3.5} == {"a"}
    assert {c.z for c in before.scale_collapse(before)} == {0.0}
    assert before.scale_collapse(Report(())) == ()


def test_history_keeps_the_counted_layers_of_its_first_report():
    history = History([Report((layer("a", alpha=2.0), layer("b", alpha=4.0)), 0)])
    history.append(Report((layer("a", alpha=3.0), layer("b")), 10))
    assert history.series("alpha") == [3.0, 3.0]
    assert history.series("alpha", "a") == [2.0, 3.0]
    with pytest.raises(ValueError, match="step"):
        history.append(Report((), 5))
