import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.analysis import update as module
from ww_callbacks.analysis.spec import Snapshot, as_matrices
from ww_callbacks.analysis.update import NO_UPDATE, Update, update_columns
from ww_callbacks.spectra import frobenius_norm, num_directions
from ww_callbacks.worker.task import weights_digest

ROWS, COLUMNS = 200, 120


def spec(shape=(ROWS, COLUMNS), dtype="float32"):
    axes = ((2, 3), (0,), (1,)) if len(shape) == 4 else ((), (0,), (1,))
    return LayerSpec("fc", "Linear", shape, dtype, axes, "convolution" if len(shape) == 4 else "matrix")


def at(step, stored):
    return Snapshot(step, stored, weights_digest(stored))


def update_of(layer, stored, before):
    return module.update_of(layer, stored, before, frobenius_norm(as_matrices(layer, stored)))


def noise(rng, shape=(ROWS, COLUMNS)):
    return rng.standard_normal(shape)


def planted(rng, rank, strength, shape=(ROWS, COLUMNS)):
    """Directions of equal strength, in units of the onset of detection in unit noise: singular value (NM)^(1/4)."""
    left, right = (np.linalg.qr(rng.standard_normal((size, rank)))[0] for size in shape)
    return strength * (shape[0] * shape[1]) ** 0.25 * left @ right.T


@pytest.mark.parametrize(("rank", "shape"), [(1, (128, 64)), (2, (128, 128)), (5, (200, 120)), (20, (400, 300))])
def test_planted_directions_are_counted(rank, shape):
    rng = np.random.default_rng(rank)
    found = []
    for _ in range(20):
        before = noise(rng, shape).astype("f4")
        change = 1e-3 * (noise(rng, shape) + planted(rng, rank, 2.0, shape))
        found.append(update_of(spec(shape), (before + change).astype("f4"), before).rank)
    assert found.count(rank) >= 19


@pytest.mark.parametrize(
    "change",
    [
        lambda rng: noise(rng),
        lambda rng: np.sign(noise(rng)),
        lambda rng: rng.standard_t(5, (ROWS, COLUMNS)),
        lambda rng: noise(rng) * (rng.random((ROWS, COLUMNS)) < 0.1),
        lambda rng: noise(rng) * rng.exponential(size=(ROWS, 1)),
        lambda rng: np.full((ROWS, COLUMNS), 1.0),
    ],
    ids=["Gaussian", "signs", "t5", "sparse", "uneven rows", "mean"],
)
def test_noise_has_no_direction(change):
    rng = np.random.default_rng(7)
    ranks = []
    for _ in range(20):
        before = planted(rng, 10, 5.0)
        ranks.append(update_of(spec(dtype="float64"), before + 1e-3 * change(rng), before).rank)
    assert not any(ranks)


def test_the_numbers_are_those_of_the_difference():
    rng = np.random.default_rng(0)
    before = noise(rng)
    change = 0.01 * (noise(rng) + planted(rng, 3, 3.0))
    change[:, 5] = 0
    update = update_of(spec(dtype="float64"), before + change, before)
    singular = np.linalg.svd(change, compute_uv=False)
    assert update.norm == pytest.approx(np.linalg.norm(change) / np.linalg.norm(before + change), rel=1e-6)
    assert update.stable_rank == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-5)
    assert update.sharpness == pytest.approx(1 / update.stable_rank, rel=1e-9)
    assert update.unchanged == 1 / COLUMNS
    before[:, :60] = 0
    assert update_of(spec(dtype="float64"), before + change, before).unchanged == 0
    assert update.rank == num_directions(singular**2, ROWS, COLUMNS) == 3
    assert update.pvalue < 1e-3


def test_a_convolution_counts_the_directions_of_all_positions():
    rng = np.random.default_rng(0)
    shape = (96, 80, 3, 3)
    before, change = noise(rng, shape), noise(rng, shape)
    for position in (0, 1):
        change[:, :, position, position] += planted(rng, 2, 4.0, shape[:2])
    update = update_of(spec(shape, "float64"), before + 1e-3 * change, before)
    assert update.rank == 4


def test_the_same_weights_have_not_changed():
    before = noise(np.random.default_rng(0)).astype("f4")
    assert update_of(spec(), before.copy(), before) == NO_UPDATE
    assert (NO_UPDATE.norm, NO_UPDATE.unchanged, NO_UPDATE.rank) == (0.0, 1.0, 0)


def test_lost_updates_of_bfloat16_are_counted_as_unchanged():
    rng = np.random.default_rng(0)
    exact = noise(rng).astype("f4")
    stored = (exact.view(np.uint32) >> 16).astype(np.uint16)
    later = ((exact * np.float32(1 + 1e-4)).view(np.uint32) >> 16).astype(np.uint16)
    update = update_of(spec(dtype="bfloat16"), later, stored)
    assert 0.95 < update.unchanged < 1
    assert 0 < update.norm < 1e-3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_give_no_numbers(value):
    before = noise(np.random.default_rng(0)).astype("f4")
    now = before.copy()
    now[3, 4] = value
    assert update_of(spec(), now, before) == Update()
    assert update_of(spec(), before, now) == Update()


@given(
    arrays("f4", (6, 5), elements=st.floats(width=32, allow_nan=True)),
    arrays("f4", (6, 5), elements=st.floats(width=32, allow_nan=True)),
)
def test_no_weights_raise(now, before):
    update = update_of(spec((6, 5)), now, before)
    assert update.norm is None or update.norm >= 0
    assert update.stable_rank is None or 1 <= update.stable_rank * (1 + 1e-6) <= 5 * (1 + 1e-5)


def test_columns_say_since_when():
    rng = np.random.default_rng(0)
    start, previous, now = (noise(rng).astype("f4") for _ in range(3))
    columns = update_columns(spec(), at(30, now), at(0, start), at(20, previous))
    since = update_of(spec(), now, previous)
    assert (columns["update_since"], columns["learned_since"]) == (20, 0)
    assert columns["update_norm"] == since.norm
    assert columns["update_norm_per_step"] == since.norm / 10
    assert columns["learned_norm"] == update_of(spec(), now, start).norm
    assert update_columns(spec(), at(0, now), at(0, now), None) == {}
    assert update_columns(spec(), at(10, now), None, None) == {}
    first = update_columns(spec(), at(10, now), at(0, start), at(0, start))
    assert first["learned_pvalue"] == first["update_pvalue"]
