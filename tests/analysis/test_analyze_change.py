import numpy as np
import pytest

from ww_callbacks.analysis import LayerSpec, Settings
from ww_callbacks.analysis.change import analyze_change, pair_spec

ROWS, COLUMNS = 200, 120
PLAIN = Settings(randomize=False)


def layer(shape=(ROWS, COLUMNS), dtype="float64"):
    axes = ((2, 3), (0,), (1,)) if len(shape) == 4 else ((), (0,), (1,))
    return LayerSpec("fc", "Linear", shape, dtype, axes, "convolution" if len(shape) == 4 else "matrix")


def change_of(now, before):
    return analyze_change(pair_spec(layer(), layer()), np.stack([now, before])[:, None], PLAIN)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def base(rng):
    """Noise with four directions."""
    left, right = np.linalg.qr(rng.standard_normal((ROWS, 4)))[0], np.linalg.qr(rng.standard_normal((COLUMNS, 4)))[0]
    return rng.standard_normal((ROWS, COLUMNS)) + left * [80, 70, 60, 50] @ right.T


def test_equal_weights_have_not_moved(base):
    found = change_of(base, base)
    assert found.skip_reason == "zero"
    assert (found.distance, found.update_norm, found.update_unchanged) == (0.0, 0.0, 1.0)
    assert (found.update_rotation, found.intruders, found.forgetting) == (0.0, 0, 0.0)


def test_noise_makes_no_intruder_and_overwrites_nothing(base, rng):
    found = change_of(base + 0.05 * rng.standard_normal(base.shape), base)
    assert (found.num_directions, found.intruders) == (0, 0)
    assert found.forgetting < 0.01
    assert found.update_rotation < 2


def test_new_directions_are_intruders_and_replaced_ones_are_forgotten(base, rng):
    left, singular, right = np.linalg.svd(base, full_matrices=False)
    new = np.linalg.qr(np.column_stack([left[:, :4], rng.standard_normal((ROWS, 2))]))[0][:, 4:]
    target = np.linalg.qr(rng.standard_normal((COLUMNS, 2)))[0].T
    added = change_of(base + 300 * new @ target, base)
    assert added.intruders == 2
    assert added.num_directions == 2
    assert added.forgetting == pytest.approx(0.5, abs=0.05)
    replaced = change_of(base + singular[0] * np.outer(new[:, 0] - left[:, 0], right[0]), base)
    assert replaced.intruders == 1
    assert replaced.forgetting == pytest.approx(0.25, abs=0.05)
    assert replaced.update_rotation == pytest.approx(90, abs=1)


def test_a_scaled_layer_keeps_its_directions(base):
    found = change_of(1.5 * base, base)
    assert found.distance == pytest.approx(0.5)
    assert found.update_norm == pytest.approx(1 / 3)
    assert found.intruders == 0
    assert found.forgetting == pytest.approx(0, abs=1e-6)


def test_numbers_that_do_not_exist_are_none(base):
    broken = base.copy()
    broken[0, 0] = np.nan
    found = change_of(broken, base)
    assert found.skip_reason == "non_finite"
    assert (found.distance, found.update_norm, found.intruders, found.forgetting) == (None,) * 4
    assert change_of(np.zeros_like(base), base).distance == 1


def test_a_baseline_of_zeros_has_no_directions(base):
    found = change_of(base, np.zeros_like(base))
    assert (found.status, found.num_directions) == ("ok", 4)
    assert found.update_norm == 1
    assert (found.distance, found.intruders, found.forgetting, found.update_rotation) == (None,) * 4


def test_kernels_of_half_precision_are_compared_in_single_precision(rng):
    shape = (64, 40, 3, 3)
    spec = pair_spec(layer(shape, "float16"), layer(shape, "bfloat16"))
    assert (spec.dtype, spec.shape) == ("float32", (2, 9, 64, 40))
    before = rng.standard_normal((9, 64, 40)).astype("f4")
    left = np.linalg.qr(rng.standard_normal((64, 1)))[0]
    now = before + (4 * left @ rng.standard_normal((9, 1, 40))).astype("f4")
    found = analyze_change(spec, np.stack([now, before]), PLAIN)
    assert found.rf == 9
    assert found.intruders == 1, "the positions have one output direction in common"
