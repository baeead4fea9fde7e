import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_callbacks.spectra import eigenvalues, float32_error, lapack, rank_tolerance

shapes = st.tuples(st.integers(1, 25), st.integers(1, 25))
seeds = st.integers(0, 2**32 - 1)


def svd_squares(matrix: np.ndarray) -> np.ndarray:
    return np.sort(np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2)


@given(seeds, shapes)
def test_squared_singular_values(seed, shape):
    W = np.random.default_rng(seed).standard_normal(shape)
    expected = svd_squares(W)
    np.testing.assert_allclose(eigenvalues(W), expected, rtol=1e-12, atol=1e-13 * expected[-1])


@given(seeds, shapes)
def test_spectrum_is_invariant_to_permutations(seed, shape):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal(shape)
    moved = W[rng.permutation(shape[0])][:, rng.permutation(shape[1])].T
    np.testing.assert_allclose(eigenvalues(moved), eigenvalues(W), atol=1e-12 * eigenvalues(W)[-1])


@given(seeds, shapes)
def test_spectrum_is_invariant_to_rotations(seed, shape):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal(shape)
    turn, _ = np.linalg.qr(rng.standard_normal((shape[0], shape[0])))
    np.testing.assert_allclose(eigenvalues(turn @ W), eigenvalues(W), atol=1e-12 * eigenvalues(W)[-1])


@pytest.mark.parametrize("scale", [1e-150, 1e-20, 1e15, 1e150])
def test_eigenvalues_scale_with_the_weights(scale):
    W = np.random.default_rng(0).standard_normal((40, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(eigenvalues(W * scale) / scale / scale, eigenvalues(W), rtol=1e-11)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16", "bool", "int64"])
def test_every_real_dtype(dtype):
    W = (np.random.default_rng(0).standard_normal((30, 20)) * 3).astype(dtype)
    np.testing.assert_allclose(eigenvalues(W), svd_squares(W), atol=1e-10 * svd_squares(W)[-1])


@pytest.mark.parametrize("shape", [(3000, 60), (60, 3000), (300, 300), (20_000, 40)])
def test_row_blocks_are_accumulated(shape):
    W = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = svd_squares(W)
    np.testing.assert_allclose(eigenvalues(W), expected, rtol=1e-9, atol=1e-15 * expected[-1])


@pytest.mark.parametrize("shape", [(400, 400), (1000, 200), (50, 3000)])
def test_float32_error_is_within_its_bound(shape):
    W = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    exact = eigenvalues(W)
    error = np.abs(eigenvalues(W, "float32") - exact).max()
    assert 0 < error < float32_error(exact[-1], *shape)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_float32_does_not_overflow(scale):
    W = np.random.default_rng(0).standard_normal((40, 20))
    np.testing.assert_allclose(eigenvalues(W * scale, "float32") / scale / scale, eigenvalues(W), rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("two_stage_from", "wide_band_from"), [(10**9, 10**9), (1, 10**9), (1, 1)])
@pytest.mark.parametrize("size", [1, 64, 65, 150])
def test_all_routines_agree(monkeypatch, dtype, two_stage_from, wide_band_from, size):
    monkeypatch.setattr(lapack, "_TWO_STAGE_SIZE", two_stage_from)
    monkeypatch.setattr(lapack, "_WIDE_BAND_SIZE", wide_band_from)
    W = np.random.default_rng(0).standard_normal((200, size))
    X = W.T @ W
    values = lapack.symmetric_eigenvalues(X.astype(dtype))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(X), rtol=1e-3 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_is_used_if_the_routines_are_missing(monkeypatch, dtype):
    monkeypatch.setattr(lapack, "_routine", lambda name: None)
    monkeypatch.setattr(lapack, "_TWO_STAGE_SIZE", 1)
    monkeypatch.setattr(lapack, "_WIDE_BAND_SIZE", 1)
    X = np.diag([3.0, 1.0, 2.0]).astype(dtype)
    np.testing.assert_allclose(lapack.symmetric_eigenvalues(X), [1, 2, 3], rtol=1e-6)


def test_wide_band_needs_all_its_routines(monkeypatch):
    present = lapack._routine
    monkeypatch.setattr(lapack, "_WIDE_BAND_SIZE", 1)
    monkeypatch.setattr(lapack, "_routine", lambda name: None if name == "dsytrd_sb2st" else present(name))
    np.testing.assert_allclose(lapack.symmetric_eigenvalues(np.diag([3.0, 1.0, 2.0])), [1, 2, 3], rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float64", 1e-200), ("float64", 1e200), ("float32", 1e-25), ("float32", 1e25)]
)
def test_wide_band_keeps_its_range(monkeypatch, dtype, scale):
    monkeypatch.setattr(lapack, "_WIDE_BAND_SIZE", 1)
    W = np.random.default_rng(0).standard_normal((200, 150))
    values = lapack.symmetric_eigenvalues((W.T @ W * scale).astype(dtype))
    np.testing.assert_allclose(values / scale, np.linalg.eigvalsh(W.T @ W), rtol=1e-3 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(50, 30), (30, 30), (1, 4), (4, 1), (1, 1)])
@pytest.mark.parametrize("missing", [False, True])
def test_gram_products_for_any_memory_layout(monkeypatch, shape, dtype, missing):
    if missing:
        monkeypatch.setattr(lapack, "_routine", lambda name: None)
    B = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    spread, shifted = np.zeros((shape[0], 2 * shape[1]), dtype), np.zeros(B.nbytes + 1, np.uint8)[1:].view(dtype)
    spread[:, ::2], shifted[:] = B, B.ravel()
    for block in (B, np.asfortranarray(B), spread[:, ::2], np.asfortranarray(spread)[:, ::2], shifted.reshape(shape)):
        total = np.ones((shape[1], shape[1]), dtype)
        lapack.add_gram(total, block)
        np.testing.assert_allclose(np.triu(total), np.triu(1 + B.T @ B), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1024, 5000])
def test_memory_stays_within_three_gram_matrices(rows):
    W = np.random.default_rng(0).standard_normal((rows, 1024)).astype(np.float32)
    tracemalloc.start()
    eigenvalues(W)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 3 * 1024**2 * 8


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros(3),
        np.zeros((0, 3)),
        np.zeros((2, 2, 2)),
        np.array([[1.0, np.nan]]),
        np.array([[np.inf, 1.0]]),
        np.array([[1j]]),
        np.array([["a"]]),
        np.array([[1e200, 1.0]]),
        np.array([[1e-200]]),
    ],
)
def test_invalid_matrices_raise(matrix):
    with np.errstate(over="raise", invalid="raise", divide="raise"), pytest.raises(ValueError, match="matrix"):
        eigenvalues(matrix)


def test_invalid_precision_raises():
    with pytest.raises(ValueError, match="precision"):
        eigenvalues(np.eye(2), "bfloat16")


def test_rank_tolerance_separates_rounding_from_rank():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((300, 10)) @ rng.standard_normal((10, 100))
    values = eigenvalues(W)
    assert np.count_nonzero(values > rank_tolerance(values[-1], 300, 100)) == 10
