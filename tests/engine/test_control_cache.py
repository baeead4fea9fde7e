"""Controls that are used again: by a stated rule, with a small error, and the report says how old they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ww_callbacks as ww
from ww_callbacks.analysis.control_cache import element_shape, moved


def drifting(steps, noise):
    """Heavy-tailed weights that drift, and at the end get one large element."""
    rng = np.random.default_rng(0)
    weights = rng.standard_t(4, (300, 200))
    for step in range(steps):
        yield step, weights
        weights = weights + noise * rng.standard_normal(weights.shape)
    weights[3, 4] = 80.0
    yield steps, weights


def watched(tolerance, executor="sync", noise=0.02):
    model = {"fc": np.empty((300, 200))}
    monitor = ww.Monitor(
        model, executor=executor, every_n_steps=1, when_busy="wait", reuse_control=tolerance, log_every_layer=False
    )
    for step, weights in drifting(6, noise):
        model["fc"][:] = weights
        monitor.start() if step == 0 else monitor.step(step)
    monitor.finish()
    return [report["fc"] for report in monitor.history]


def test_without_the_request_every_control_is_of_its_own_step():
    assert [layer.control_step for layer in watched(0.0)] == list(range(7))


@pytest.mark.parametrize("executor", ["sync", "process"])
def test_a_control_is_used_again_until_the_elements_move_and_the_report_says_how_old_it_is(executor):
    layers, exact = watched(0.1, executor), watched(0.0)
    assert [layer.control_step for layer in layers] == [0, 0, 0, 0, 0, 0, 6]
    for layer, other in zip(layers, exact, strict=True):
        assert layer.max_rand_eval == pytest.approx(other.max_rand_eval, rel=0.02)
        assert (layer.num_traps > 0) == (other.num_traps > 0)
        assert layer.alpha == other.alpha
        assert layer.rand_distance == pytest.approx(other.rand_distance, abs=0.03)


def test_a_large_element_is_a_move_whatever_all_others_do():
    weights = np.random.default_rng(0).standard_normal((1, 300, 200))
    before = element_shape(weights, weights.var())
    weights[0, 1, 1] = 40.0
    assert moved(before, element_shape(weights, weights.var())) > 1.0


def test_a_mean_that_shifts_is_a_move_long_before_quantiles_show_it():
    weights = np.random.default_rng(0).standard_normal((1, 3000, 1000))
    shapes = [element_shape(weights + shift, weights.var()) for shift in (0.0, 0.02)]
    assert max(abs(new - old) for old, new in zip(*shapes, strict=True)) == moved(*shapes)
    assert moved(*shapes) > 0.3


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(0, 9))
def test_a_change_of_scale_is_none(factor, seed):
    weights = np.random.default_rng(seed).standard_normal((2, 40, 30))
    shapes = [element_shape(each, each.var()) for each in (weights, factor * weights)]
    assert moved(*shapes) == pytest.approx(0.0, abs=1e-9)


def test_a_constant_matrix_has_a_shape():
    assert np.isfinite(element_shape(np.full((1, 30, 20), 3.0), 0.0)).all()
