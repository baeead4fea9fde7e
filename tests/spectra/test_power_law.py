import contextlib
import io

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ww_callbacks.spectra import fit_power_law, hill_alpha
from ww_callbacks.spectra.power_law import _evaluate

positive = arrays(np.float64, st.integers(2, 60), elements=st.floats(1e-6, 1e6))
with_ties = arrays(np.float64, st.integers(2, 60), elements=st.integers(1, 8).map(float))


def family(name: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """Spectra similar to those of real layers."""
    if name == "pareto":
        return rng.pareto(2, size) + 1
    if name == "ties":
        return np.round(rng.pareto(2, size) + 1, 1)
    if name == "body":
        return np.r_[np.exp(rng.standard_normal(size // 2)), 3 * (rng.pareto(2, size - size // 2) + 1)]
    W = rng.standard_t(3, (2 * size, size)) if name == "student" else rng.standard_normal((2 * size, size))
    if name == "trained":
        W += (rng.standard_normal((2 * size, 8)) * (rng.pareto(1.5, 8) + 1)) @ rng.standard_normal((8, size)) / 5
    return np.linalg.eigvalsh(W.T @ W)


FAMILIES = ("pareto", "ties", "body", "student", "gauss", "trained")


def assert_equals_weightwatcher(values: np.ndarray) -> None:
    WWFit = pytest.importorskip("weightwatcher.WW_powerlaw").WWFit
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        peer = WWFit(values)
    fit = fit_power_law(values)
    assert (fit.alpha, fit.D, fit.xmin, fit.num_pl_spikes) == (peer.alpha, peer.D, peer.xmin, len(peer.data))
    if np.count_nonzero(values == fit.xmin) == 1:
        assert fit.sigma == peer.sigma


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [20, 137, 400])
def test_equals_weightwatcher_bitwise(name, size):
    for seed in range(2):
        assert_equals_weightwatcher(family(name, np.random.default_rng([seed, size]), size))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FAMILIES)
def test_equals_weightwatcher_on_many_spectra(name):
    rng = np.random.default_rng(7)
    for size in [20, 25, 50, 77, 100, 200, 300, 500, 700, 1000] * 10:
        assert_equals_weightwatcher(family(name, rng, size))


@given(positive | with_ties)
def test_pruned_search_equals_full_search(values):
    assume(values.min() < values.max())
    x = np.sort(values)
    log_x = np.log(x)
    full = min((_evaluate(x, log_x, i)[1], i) for i in range(len(x) - 1))
    fit = fit_power_law(values)
    assert (fit.D, fit.xmin) == (full[0], x[full[1]])


@given(with_ties)
def test_sigma_uses_the_size_of_the_tail_with_ties(values):
    assume(values.min() < values.max())
    fit = fit_power_law(values)
    assume(np.isfinite(fit.alpha))
    assert fit.num_pl_spikes == np.count_nonzero(values >= fit.xmin)
    assert fit.sigma == (fit.alpha - 1) / np.sqrt(fit.num_pl_spikes)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-200, 1e-20, 3e-7, 1e15, 1e200]))
def test_alpha_is_scale_invariant(seed, factor):
    values = np.random.default_rng(seed).pareto(2, 100) + 1
    fit, scaled = fit_power_law(values), fit_power_law(values * factor)
    if scaled.num_pl_spikes == fit.num_pl_spikes:  # if D is equal up to rounding, either xmin is correct
        assert scaled.alpha == pytest.approx(fit.alpha, rel=1e-9)
    assert pytest.approx(fit.D, abs=1e-9) == scaled.D


@given(st.integers(0, 2**32 - 1))
def test_order_of_values_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    values = rng.pareto(2, 50) + 1
    assert fit_power_law(values) == fit_power_law(rng.permutation(values))


def test_finds_a_known_exponent():
    rng = np.random.default_rng(0)
    for alpha in (1.5, 2.5, 4.0, 8.0):
        fit = fit_power_law(rng.pareto(alpha - 1, 4000) + 1)
        assert abs(fit.alpha - alpha) < 4 * fit.sigma


def test_finds_the_start_of_the_tail():
    rng = np.random.default_rng(0)
    fit = fit_power_law(np.r_[rng.uniform(0, 1, 3000), rng.pareto(1.5, 3000) + 1])
    assert fit.xmin > 0.95  # a larger xmin is correct too
    assert fit.alpha == pytest.approx(2.5, abs=4 * fit.sigma)


@pytest.mark.parametrize(
    "values",
    [[], [1.0], [[1.0, 2.0]], [2.0, 2.0], [0.0, 1.0], [-1.0, 1.0], [1.0, np.nan], [1.0, np.inf]],
)
@pytest.mark.parametrize("function", [fit_power_law, hill_alpha])
def test_invalid_values_raise(function, values):
    with pytest.raises(ValueError, match="values"):
        function(np.array(values))


def test_hill_is_the_maximum_likelihood_estimate_above_the_median():
    values = np.random.default_rng(0).pareto(2, 101) + 1
    upper = np.sort(values)[50:]
    assert hill_alpha(values) == pytest.approx(1 + 51 / np.log(upper / upper[0]).sum())


def test_hill_of_random_matrices():
    rng = np.random.default_rng(0)
    for rows, expected in ((300, 2.12), (900, 3.15)):
        W = rng.standard_normal((rows, 300))
        assert hill_alpha(np.linalg.eigvalsh(W.T @ W)) == pytest.approx(expected, abs=0.1)
