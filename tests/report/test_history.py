import pytest

from ww_callbacks.report import History, LayerReport, Report


def layer(name: str, **columns: object) -> LayerReport:
    return LayerReport(name=name, kind="Linear", **columns)


def test_history_keeps_the_counted_layers_of_its_first_report():
    history = History([Report((layer("a", alpha=2.0), layer("b", alpha=4.0)), 0)])
    history.append(Report((layer("a", alpha=3.0), layer("b")), 10))
    assert history.series("alpha") == [3.0, 3.0]
    assert history.series("alpha", "a") == [2.0, 3.0]
    with pytest.raises(ValueError, match="step"):
        history.append(Report((), 5))
