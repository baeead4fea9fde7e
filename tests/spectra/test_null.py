import contextlib

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from ww_callbacks.spectra import edge_threshold, eigenvalues, null_test, separable_edge, unfolded


def gaussian(rng, rows, columns):
    return rng.standard_normal((rows, columns))


def scales(rng, size, spread=0.5):
    return np.exp(spread * rng.standard_normal(size))


def direction(rng, rows, columns):
    u, v = rng.standard_normal(rows), rng.standard_normal(columns)
    return np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))


def causal(rng, rows, columns):
    return gaussian(rng, rows, columns) * (np.arange(rows)[:, None] * columns >= np.arange(columns) * rows)


FRESH = {
    "Gaussian": gaussian,
    "uniform": lambda rng, n, m: rng.uniform(-1, 1, (n, m)),
    "Student-t, 3": lambda rng, n, m: rng.standard_t(3, (n, m)),
    "log-normal": lambda rng, n, m: np.sign(gaussian(rng, n, m)) * np.exp(1.5 * gaussian(rng, n, m)),
    "90 % masked": lambda rng, n, m: gaussian(rng, n, m) * (rng.random((n, m)) < 0.1),
    "causal mask": causal,
    "row scales": lambda rng, n, m: gaussian(rng, n, m) * scales(rng, (n, 1)),
    "column scales": lambda rng, n, m: gaussian(rng, n, m) * scales(rng, m),
    "row and column scales": lambda rng, n, m: gaussian(rng, n, m) * scales(rng, (n, 1)) * scales(rng, m),
    "three blocks": lambda rng, n, m: (
        gaussian(rng, n, m) * np.repeat([1, 1, 0.25], [n // 3, n // 3, n - n // 3 * 2])[:, None]
    ),
    "non-negative": lambda rng, n, m: rng.random((n, m)),
    "identity with noise": lambda rng, n, m: np.eye(n, m) + 0.01 * gaussian(rng, n, m),
    "orthogonal": lambda rng, n, m: np.linalg.qr(gaussian(rng, n, m))[0],
    "rounded": lambda rng, n, m: np.round(2 * gaussian(rng, n, m)),
    "tied columns": lambda rng, n, m: np.repeat(gaussian(rng, n, m // 2), 2, axis=1),
    "rows and their negatives": lambda rng, n, m: np.concatenate([W := gaussian(rng, n // 2, m), -W]),
    "equal unused rows": lambda rng, n, m: np.concatenate(
        [gaussian(rng, n - n // 4, m), np.repeat(gaussian(rng, 1, m), n // 4, axis=0)]
    ),
    "dead columns beside a mean": lambda rng, n, m: (0.5 + gaussian(rng, n, m)) * (np.arange(m) > m // 4),
    "one huge element": lambda rng, n, m: gaussian(rng, n, m) + 1e4 * ((np.arange(n * m) == 7).reshape(n, m)),
}


@pytest.mark.parametrize("kind", FRESH)
def test_weights_without_arrangement_are_rarely_significant(kind):
    rng = np.random.default_rng(0)
    pvalues = []
    for rows, columns in [(64, 32), (80, 80)] * 60:
        W = FRESH[kind](rng, rows, columns)
        pvalues.append(null_test(W, eigenvalues(W)).pvalue)
    assert np.mean(np.array(pvalues) <= 0.01) <= 0.05
    assert min(pvalues) > 1e-4


def test_score_has_mean_0_and_variance_1_under_random_signs():
    rng = np.random.default_rng(0)
    sizes = np.tril(np.abs(rng.standard_t(3, (40, 30)))) * scales(rng, (40, 1))
    scores = [null_test(sizes * rng.choice([-1, 1], sizes.shape)).score for _ in range(1000)]
    assert np.mean(scores) == pytest.approx(0, abs=0.1)
    assert np.std(scores) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("strength", "least"), [(1.5, 0.7), (2, 0.97)])
def test_finds_one_direction(strength, least):
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(100):
        W = gaussian(rng, 256, 128) + strength * (256 * 128) ** 0.25 * direction(rng, 256, 128)
        found += null_test(W, eigenvalues(W)).pvalue <= 0.001
    assert found >= least * 100


def test_finds_structure_below_the_onset_of_a_single_direction():
    rng = np.random.default_rng(2)
    W = gaussian(rng, 256, 128)
    W += 0.15 * np.roll(W, 1, axis=1)  # neighbouring columns are correlated
    test = null_test(W, eigenvalues(W))
    assert test.pvalue < 1e-4
    assert eigenvalues(W)[-1] < edge_threshold(W.var(), 256, 128)


def test_finds_structure_beside_different_scales():
    rng = np.random.default_rng(3)
    shape = scales(rng, (256, 1)) * scales(rng, 128)
    W = gaussian(rng, 256, 128) * shape
    assert null_test(W, eigenvalues(W)).pvalue > 0.001
    W += 0.3 * shape * (gaussian(rng, 256, 8) @ gaussian(rng, 8, 128))
    assert null_test(W, eigenvalues(W)).pvalue < 1e-6


def test_pools_kernel_positions():
    rng = np.random.default_rng(14)
    kernels = rng.standard_normal((9, 16, 24)) * np.arange(1, 10)[:, None, None]
    assert null_test(kernels).pvalue > 0.01
    kernels = rng.standard_normal((9, 16, 24)) + rng.standard_normal((16, 24))  # a part shared by all positions
    assert min(null_test(kernel).pvalue for kernel in kernels) > 1e-4 > null_test(kernels).pvalue


def test_uneven_scales_are_told_from_even_ones():
    rng = np.random.default_rng(5)
    for W in (
        gaussian(rng, 100, 60),
        rng.standard_t(3, (100, 60)),
        gaussian(rng, 100, 60) * (rng.random((100, 60)) < 0.1),
    ):
        assert not null_test(W).uneven
    assert null_test(gaussian(rng, 100, 60) * scales(rng, (100, 1))).uneven
    assert null_test(gaussian(rng, 100, 60) * scales(rng, 60)).uneven


@pytest.mark.parametrize("factor", [1e-150, 1e-30, 1.0, 1e30, 1e150])
def test_scale_and_orientation_do_not_matter(factor):
    W = gaussian(np.random.default_rng(6), 80, 50) + 0.1
    expected = null_test(W, eigenvalues(W))
    scaled = W * factor
    for test in (null_test(scaled, eigenvalues(scaled)), null_test(scaled.T, eigenvalues(scaled))):
        assert test.score == pytest.approx(expected.score, abs=1e-3)
        assert test.edge_pvalue == pytest.approx(expected.edge_pvalue, abs=1e-3)


def test_known_eigenvalues_give_the_score_of_the_gram_matrix():
    W = np.random.default_rng(7).standard_normal((200, 90))
    for precision in ("float64", "float32"):
        assert null_test(W, eigenvalues(W, precision)).score == pytest.approx(null_test(W).score, abs=1e-2)


@pytest.mark.parametrize("mean", [0.5, 20.0])
def test_a_mean_is_not_arrangement(mean):
    W = np.random.default_rng(7).standard_normal((200, 90))
    shifted = W + mean
    test = null_test(shifted, eigenvalues(shifted))
    assert test.score == pytest.approx(null_test(W).score, abs=0.1)
    assert test.pvalue > 0.01


def test_variance_from_sampled_columns_is_near_that_of_all(monkeypatch):
    rng = np.random.default_rng(8)
    W = rng.standard_t(4, (300, 150)) * scales(rng, 150)
    W[5, 6] = 300
    sampled = null_test(W).score
    monkeypatch.setattr("ww_callbacks.spectra.null.SAMPLED_COLUMNS", 300)
    assert sampled == pytest.approx(null_test(W).score, rel=0.1)


def test_separable_edge():
    rng = np.random.default_rng(9)
    assert separable_edge(np.full(300, 50.0), np.full(50, 300.0)) == pytest.approx((300**0.5 + 50**0.5) ** 2, rel=1e-4)
    r, c = rng.uniform(0.5, 2, 400), rng.uniform(0.2, 3, 300)
    c *= r.sum() / c.sum()
    variances = np.sqrt(np.outer(r, c) / r.sum())
    largest = [eigenvalues(variances * gaussian(rng, 400, 300))[-1] for _ in range(5)]
    assert np.mean(largest) == pytest.approx(separable_edge(r, c), rel=0.03)


@pytest.mark.parametrize("dominant", [1, 30, 1e5])
def test_separable_edge_beside_a_dominant_column(dominant):
    """Against general solvers; one large column moves the minimum to the end of its interval."""
    r, c = np.ones(400), np.ones(20)
    c[0] = dominant
    c *= r.sum() / c.sum()
    x, y = r / np.sqrt(r.sum()), c / np.sqrt(r.sum())

    def edge(share):
        a = share / x.max()
        right = (x / (1 - x * a)).sum()
        return right / brentq(lambda b: b * (y / (1 - y * b)).sum() - a * right, 0, (1 - 1e-14) / y.max(), xtol=1e-15)

    expected = minimize_scalar(edge, bounds=(1e-9, 1 - 1e-9), method="bounded", options={"xatol": 1e-12}).fun
    assert separable_edge(r, c) == pytest.approx(expected, rel=1e-4)


def test_unfolded_has_the_shorter_side_as_columns():
    W = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(unfolded(W)[:4], W[0].T)
    assert unfolded(W).shape == (8, 3)


@pytest.mark.parametrize("shape", [(80, 50), (50, 80)])
def test_structure_is_found_beside_equal_rows(shape):
    rng = np.random.default_rng(12)
    W = gaussian(rng, *shape) + 0.5 * gaussian(rng, shape[0], 4) @ gaussian(rng, 4, shape[1])
    copied = np.concatenate([W, np.repeat(W[:1], 20, axis=0)]).astype("f4")
    assert null_test(copied, eigenvalues(copied)).score == pytest.approx(null_test(W).score, rel=1e-3)


def test_equal_sizes_are_even():
    signs = np.random.default_rng(10).choice([-0.3, 0.3], (100, 60))
    assert not null_test(signs).uneven


@pytest.mark.parametrize("columns", [2, 12, 13, 40])
def test_columns_of_zeros_do_not_matter(columns):
    W = np.random.default_rng(11).standard_normal((100, 60))
    W[:, columns:] = 0
    assert null_test(W).score == pytest.approx(null_test(W[:, :columns]).score, abs=0.02)


@pytest.mark.parametrize(
    "W", [np.zeros((30, 30)), np.ones((30, 30)), np.ones((30, 1)), np.zeros((0, 3)), np.full((3, 3), np.nan)]
)
def test_matrices_that_cannot_be_tested(W):
    with pytest.raises(ValueError, match="matri"):
        null_test(W)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "kind", ["xavier", "kaiming", "uniform", "orthogonal", "trunc_normal", "sparse", "dirac", "eye"]
)
def test_fresh_initialisations_are_rarely_arranged(kind):
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    init = {
        "xavier": torch.nn.init.xavier_normal_,
        "kaiming": torch.nn.init.kaiming_normal_,
        "uniform": torch.nn.init.kaiming_uniform_,
        "orthogonal": torch.nn.init.orthogonal_,
        "trunc_normal": torch.nn.init.trunc_normal_,
        "sparse": lambda weight: torch.nn.init.sparse_(weight, 0.9),
        "dirac": torch.nn.init.dirac_,
        "eye": torch.nn.init.eye_,
    }[kind]
    shapes = [(300, 100), (784, 300), (256, 256)] * (kind != "dirac") + [(64, 32, 3, 3), (128, 64, 3, 3)] * (
        kind not in ("sparse", "eye")
    )
    arranged, count = 0, 0
    for shape in shapes * (1 if kind in ("dirac", "eye") else 400):
        weight = torch.empty(shape)
        init(weight)
        W = weight.numpy().reshape(*shape[:2], -1).transpose(2, 0, 1)
        with contextlib.suppress(ValueError):  # cannot be told
            arranged += null_test(W if len(W) > 1 else W[0], eigenvalues(W[0])).pvalue <= 0.001
        count += 1
    print(f"\n{kind}: {arranged} of {count} fresh layers are arranged")
    assert arranged <= 0.005 * count
