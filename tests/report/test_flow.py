import pytest

from ww_callbacks.report import LayerReport, Report


def layer(name: str, **columns: object) -> LayerReport:
    return LayerReport(name=name, kind="Linear", **columns)


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
