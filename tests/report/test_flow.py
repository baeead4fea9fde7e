import numpy as np
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
    assert [name for name, change in changes.items() if change.collapsed] == ["c"]


def test_scale_collapse_where_most_layers_stand_still():
    names = "abcdefgh"
    before = scales(**dict.fromkeys(names, 0.0))
    after = scales(**(dict.fromkeys(names, 0.0) | {"a": 1.0}))
    assert {c.name for c in after.scale_collapse(before) if c.collapsed} == {"a"}
    assert {c.z for c in before.scale_collapse(before)} == {0.0}
    assert before.scale_collapse(Report(())) == ()


def test_layers_that_stand_still_do_not_collapse_when_the_others_change_alike():
    names = "abcdefgh"
    before = scales(**dict.fromkeys(names, 0.0))
    after = scales(**(dict.fromkeys(names, 0.0) | {"a": -1.0, "b": -1.0, "c": -1.0000001}))
    assert not [change.name for change in after.scale_collapse(before) if change.collapsed]


def rate(draw, layers: int, models: int) -> float:
    """Share of models of a noise with at least one flagged layer."""
    names = [str(i) for i in range(layers)]
    before = scales(**dict.fromkeys(names, 0.0))
    flagged = 0
    for _ in range(models):
        after = scales(**dict(zip(names, (0.2 * draw(layers)).tolist(), strict=True)))
        flagged += any(change.collapsed for change in after.scale_collapse(before))
    return flagged / models


@pytest.mark.parametrize("layers", [3, 5, 12, 50])
def test_noise_is_rarely_called_a_scale_collapse(layers):
    rng = np.random.default_rng(layers)
    assert rate(rng.standard_normal, layers, 500) <= 0.05 + 3 * (0.05 * 0.95 / 500) ** 0.5
    assert rate(lambda n: rng.standard_t(5, n), layers, 500) <= 0.1 + 3 * (0.1 * 0.9 / 500) ** 0.5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_levels_of_the_scale_collapse(capsys):
    for layers in (3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 30, 50, 100):
        rng = np.random.default_rng(layers)
        models = 4000 if layers <= 30 else 1000
        noises = (rng.standard_normal, lambda n, rng=rng: rng.standard_t(5, n), lambda n, rng=rng: rng.standard_t(3, n))
        normal, light, heavy = (rate(draw, layers, models) for draw in noises)
        with capsys.disabled():
            print(f"\n{layers} layers: Gaussian {normal:.1%}, t5 {light:.1%}, t3 {heavy:.1%} of {models}", end="")
        assert normal <= 0.05 + 3 * (0.05 * 0.95 / models) ** 0.5
        assert light <= 0.1 + 3 * (0.1 * 0.9 / models) ** 0.5


@pytest.mark.parametrize("layers", [1, 2])
def test_too_few_layers_are_not_judged(layers):
    before = scales(**{str(i): 0.0 for i in range(layers)})
    after = scales(**{str(i): -2.0 * i - 1 for i in range(layers)})
    assert {change.collapsed for change in after.scale_collapse(before)} == {None}


def test_frozen_layers_say_nothing_about_the_trained_ones():
    """Eight of twelve layers are frozen; the changes of the others are noise."""
    rng = np.random.default_rng(0)
    before = scales(**{str(i): 0.0 for i in range(12)})
    flagged = 0
    for _ in range(300):
        after = scales(**{str(i): 0.2 * rng.standard_normal() if i < 4 else 0.0 for i in range(12)})
        flagged += any(change.collapsed for change in after.scale_collapse(before))
    assert flagged / 300 <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


def test_layers_that_are_all_rescaled_are_no_collapse():
    rng = np.random.default_rng(0)
    start = dict(zip("abcdefghij", rng.standard_normal(10).tolist(), strict=True))
    before, after = scales(**start), scales(**{name: value - 0.6 for name, value in start.items()})
    assert not any(change.collapsed for change in after.scale_collapse(before))
