import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from ww_callbacks.spectra import LEVEL, marchenko_pastur_edge, shuffle_matrix, tracy_widom_isf
from ww_callbacks.spectra import shuffle as module


@pytest.fixture
def small_limits(monkeypatch):
    """Limits at which small matrices have several chunks and the buffer is filled several times."""
    monkeypatch.setattr(module, "_WHOLE", 1024)
    monkeypatch.setattr(module, "_BUFFER_BYTES", 4000)


def numbered(rows: int, columns: int) -> np.ndarray:
    return np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)


@given(rows=st.integers(1, 300), columns=st.integers(1, 60), seed=st.integers(0, 9), position=st.integers(0, 3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_element_occurs_once_for_any_layout(small_limits, rows, columns, seed, position):
    W = numbered(rows, columns)
    shuffled = shuffle_matrix(W, seed=seed, position=position)
    assert shuffled.shape == (max(rows, columns), min(rows, columns))
    np.testing.assert_array_equal(np.sort(shuffled, axis=None), W.ravel())
    np.testing.assert_array_equal(shuffle_matrix(np.asfortranarray(W), seed=seed, position=position), shuffled)


@pytest.mark.parametrize("shape", [(257, 257), (1009, 67), (66_000, 1), (22_000, 3), (512, 512), (700, 300)])
def test_every_element_of_larger_matrices_occurs_once(shape):
    W = numbered(*shape)
    shuffled = shuffle_matrix(W)
    np.testing.assert_array_equal(np.sort(shuffled, axis=None), W.ravel())
    for other in (np.asfortranarray(W), W.T if shape[0] != shape[1] else W, np.stack([W, W], axis=-1)[..., 1]):
        np.testing.assert_array_equal(shuffle_matrix(other), shuffled)
    assert not np.array_equal(shuffle_matrix(W, seed=1), shuffled)
    assert not np.array_equal(shuffle_matrix(W, position=1), shuffled)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8"])
def test_permutation_does_not_depend_on_dtype_or_buffer(monkeypatch, dtype):
    W = np.random.default_rng(0).integers(-100, 100, (700, 300))
    expected = shuffle_matrix(W)
    np.testing.assert_array_equal(shuffle_matrix(W.astype(dtype)), expected)
    monkeypatch.setattr(module, "_BUFFER_BYTES", 100_000)
    np.testing.assert_array_equal(shuffle_matrix(W.astype(dtype)), expected)


def test_threads_get_the_same_permutations():
    matrices = [numbered(rows, 300) for rows in (300, 400, 500, 600)] * 4
    expected = [shuffle_matrix(W) for W in matrices]
    module._table.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(shuffle_matrix, matrices), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_memory_does_not_grow_with_the_number_of_weights(monkeypatch):
    monkeypatch.setattr(module, "_BUFFER_BYTES", 2**20)
    W = np.ones((40_000, 100), np.float32)  # a permutation of 4 bytes per weight would take 15 MiB
    tracemalloc.start()
    for _ in module.shuffled_blocks(W, seed=0, position=0):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 2**20


def structures(rows: int, columns: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    i, j = np.mgrid[:rows, :columns]
    flat = i * columns + j
    blocks = rng.standard_normal((rows // 16 + 1, columns // 16 + 1))
    kernel = rng.standard_normal((64, 9))
    arrays = {
        "rank one": rng.standard_normal((rows, 1)) * rng.standard_normal((1, columns)),
        "constant rows": rng.standard_normal(rows)[i],
        "constant columns": rng.standard_normal(columns)[j],
        "row ramp": i,
        "column ramp": j,
        "both ramps": i / rows + j / columns,
        "ramp in memory": flat,
        "checkerboard": (-1) ** (i + j),
        "halves": np.where(i < rows // 2, 1, -1),
        "blocks": blocks[i // 16, j // 16],
        "smooth": np.sin(6 * i / rows) * np.cos(5 * j / columns),
        "Toeplitz": np.exp(-np.abs(i * columns / rows - j) / 5),
        "repeated kernels": kernel[i % 64, j % 9],
        "every seventh": flat % 7 == 0,
        **{f"period {period}": np.sin(2 * np.pi * flat / period) for period in (3, 16, 64, 1024)},
        "independent": rng.standard_normal((rows, columns)),
    }
    return {name: (array - array.mean()).astype(np.float32) for name, array in arrays.items()}


def scores(matrices: list[np.ndarray]) -> np.ndarray:
    """Largest eigenvalues in Tracy-Widom units."""
    edge, width = marchenko_pastur_edge(float(matrices[0].var(dtype=np.float64)), *matrices[0].shape)
    return np.array([(np.linalg.norm(matrix, 2) ** 2 - edge) / width for matrix in matrices])


def compare(shape: tuple[int, int], count: int) -> None:
    """Largest eigenvalues and the rate of false traps, compared with those after exactly uniform permutations."""
    pvalues, traps = [], np.zeros(2)
    for name, W in structures(*shape).items():
        ours = scores([shuffle_matrix(W, seed=seed) for seed in range(count)])
        exact = scores(
            [np.random.default_rng([7, seed]).permutation(W.ravel()).reshape(shape) for seed in range(count)]
        )
        pvalues.append(ks_2samp(ours, exact).pvalue)
        traps += [(each > tracy_widom_isf(LEVEL)).sum() for each in (ours, exact)]
        print(f"{shape} {name}: p = {pvalues[-1]:.3f}, {ours.mean():.2f} and {exact.mean():.2f} on average")
    print(f"{shape}: smallest p {min(pvalues):.4f}, false traps {traps}")
    assert min(pvalues) > 0.001
    assert traps[0] <= traps[1] + 3 * np.sqrt(traps[1] + 1)


@pytest.mark.parametrize("shape", [(64, 64), (256, 32)])
def test_structure_is_destroyed_as_by_a_uniform_permutation(small_limits, shape):
    compare(shape, 100)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shape", [(96, 96), (400, 40), (288, 288), (1024, 80)])
def test_structure_is_destroyed_in_larger_matrices(shape):
    compare(shape, 300)
