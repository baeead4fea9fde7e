import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtr

from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer
from ww_callbacks.spectra import (
    XminCandidates,
    asymptotic_interval,
    bootstrap_interval,
    fit_power_law,
    near_tied_interval,
    rounding_shift,
    xmin_candidates,
)
from ww_callbacks.spectra.interval import CANDIDATE_INFLATION, NEAR_TIE


def spectrum(rng: np.random.Generator, size: int, alpha: float, body: float) -> np.ndarray:
    """Independent values: a log-normal below 1 with probability ``body``, otherwise a power law from 1 on."""
    tail = size if body == 0 else rng.binomial(size, 1 - body)
    below = 0.3 * np.exp(rng.standard_normal(20 * size))
    return np.concatenate([rng.pareto(alpha - 1, tail) + 1, below[below < 1][: size - tail]])


def interval(values: np.ndarray, kind: str) -> tuple[float, float]:
    fit = fit_power_law(values)
    if kind == "bootstrap":
        return bootstrap_interval(values, fit)
    if kind == "asymptotic":
        return asymptotic_interval(fit.alpha, fit.sigma, fit.num_pl_spikes)
    return near_tied_interval(fit, xmin_candidates(values, fit))


def coverage(kind: str, size: int, body: float, count: int, alpha: float = 3.0) -> float:
    rng = np.random.default_rng([11, size, int(10 * body)])
    intervals = [interval(spectrum(rng, size, alpha, body), kind) for _ in range(count)]
    return float(np.mean([low < alpha < high for low, high in intervals]))


@pytest.mark.parametrize("kind", ["asymptotic", "near-tied"])
@pytest.mark.parametrize("body", [0.0, 0.5])
def test_interval_contains_the_true_alpha(kind, body):
    assert 0.90 <= coverage(kind, 100, body, 300) <= 0.99


def test_bootstrap_interval_contains_the_true_alpha():
    assert 0.88 <= coverage("bootstrap", 100, 0.0, 60) <= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["near-tied", "bootstrap"])
@pytest.mark.parametrize("body", [0.0, 0.5])
@pytest.mark.parametrize("size", [100, 300, 1000])
def test_coverage(kind, body, size):
    count = 2000 if kind == "near-tied" else 400
    share = coverage(kind, size, body, count)
    print(f"\n{kind}, n = {size}, body {body}: {share:.1%} of {count}")
    assert 0.90 <= share <= (0.99 if kind == "near-tied" else 1)


def test_interval_contains_what_small_changes_do_to_alpha():
    """Two power laws, alpha 2 below 5 and alpha 6 above: xmin is in the one or in the other."""
    rng = np.random.default_rng(1)
    left = {"asymptotic": 0, "near-tied": 0}
    for _ in range(60):
        values = rng.pareto(1.0, 150) + 1
        values = np.where(values > 5, 5 * (rng.pareto(5.0, 150) + 1), values)
        moved = [fit_power_law(values * (1 + 0.002 * rng.standard_normal(150))).alpha for _ in range(8)]
        for kind in left:
            low, high = interval(values, kind)
            left[kind] += not all(low <= alpha <= high for alpha in moved)
    assert left["asymptotic"] >= 10
    assert left["near-tied"] <= 1


def test_interval_of_a_single_candidate_is_normal():
    fit = fit_power_law(np.array([1.0, 2.0]))
    low, high = near_tied_interval(fit, xmin_candidates(np.array([1.0, 2.0]), fit))
    assert low == 1.0  # alpha - 1.96·1.15·sigma is below 1, which no exponent is
    assert high == pytest.approx(fit.alpha + 1.959964 * 1.15 * fit.sigma, rel=1e-6)


def test_interval_of_two_equal_candidates_is_their_mixture():
    values = np.random.default_rng(0).pareto(2, 100) + 1
    fit = fit_power_law(values)
    far = XminCandidates(np.array([2.0, 9.0]), np.full(2, fit.D), np.full(2, 10**8), np.ones(2))
    low, high = near_tied_interval(fit, far)
    assert (low, high) == (pytest.approx(2.0, abs=1e-3), pytest.approx(9.0, abs=1e-2))


@given(arrays(np.float64, st.integers(2, 60), elements=st.floats(1e-150, 1e150)))
def test_interval_contains_alpha(values):
    assume(values.min() < values.max())
    fit = fit_power_law(values)
    assume(np.isfinite(fit.alpha))
    low, high = near_tied_interval(fit, xmin_candidates(values, fit))
    assert 1 <= low <= fit.alpha <= high


def test_interval_of_a_layer_with_a_planted_tail():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(20):
        values = spectrum(rng, 100, 2.5, 0.0)
        left, _ = np.linalg.qr(rng.standard_normal((150, 100)))
        right, _ = np.linalg.qr(rng.standard_normal((100, 100)))
        spec = LayerSpec("layer", "Linear", (150, 100), "float64", ((), (0,), (1,)))
        layer = analyze_layer(spec, (left * np.sqrt(values)) @ right, Settings(randomize=False))
        covered += layer.alpha_low < 2.5 < layer.alpha_high
    assert 16 <= covered <= 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("rows", "columns"), [(600, 200), (1200, 400)])
def test_random_matrices_with_a_power_law_population(rows, columns):
    """Prints the coverage, without a limit: the eigenvalues are neither independent nor exactly a power law."""
    rng = np.random.default_rng(0)
    fits, covered = [], 0
    for _ in range(100):
        population = (rng.pareto(2, columns) + 1) / rows
        W = rng.standard_normal((rows, columns)) * np.sqrt(population)
        fits.append(fit_power_law(np.linalg.eigvalsh(W.T @ W)))
        low, high = interval(np.linalg.eigvalsh(W.T @ W), "near-tied")
        covered += low < 3 < high
    alphas = [fit.alpha for fit in fits]
    print(f"\n{rows} x {columns}: {covered} of 100 contain 3, bias {np.mean(alphas) - 3:+.2f}, sd {np.std(alphas):.2f}")
    assert abs(np.mean(alphas) - 3) < 1


def test_bootstrap_depends_on_the_seed_only():
    values = np.random.default_rng(0).pareto(2, 60) + 1
    fit = fit_power_law(values)
    assert bootstrap_interval(values, fit) == bootstrap_interval(values, fit)
    assert bootstrap_interval(values, fit) != bootstrap_interval(values, fit, seed=1)


def test_interval_narrows_with_tail_size():
    wide, narrow = asymptotic_interval(3, 0.2, 20), asymptotic_interval(3, 0.2, 1000)
    assert wide[0] < narrow[0] < 3 - 1.96 * 0.2 < 3 < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("values", "replicates", "name"),
    [([1.0, 2.0], 1, "replicates"), ([1.0], 40, "values"), ([2.0, 2.0], 40, "values"), ([1.0, np.nan], 40, "values")],
)
def test_invalid_arguments_raise(values, replicates, name):
    fit = fit_power_law(np.array([1.0, 2.0, 4.0]))
    with pytest.raises(ValueError, match=name):
        bootstrap_interval(np.array(values), fit, replicates=replicates)


def test_rounding_shift_grows_with_the_bound():
    values = np.random.default_rng(0).pareto(2, 300) + 1
    fit = fit_power_law(values)
    shifts = [rounding_shift(values, fit, bound) for bound in (0.0, 1e-9, 1e-4)]
    assert shifts[0] == 0
    assert 0 < shifts[1] < 1e-6 < shifts[2]


def bisected(candidates: XminCandidates, fit, probability: float) -> float:
    """Quantile of the mixture by bisection, with the distribution computed at every step."""
    excess = np.maximum(candidates.D - fit.D, 0) * math.sqrt(fit.num_pl_spikes) / NEAR_TIE
    weight = np.exp(-excess) * candidates.spacing / candidates.tail_size
    error = CANDIDATE_INFLATION * (candidates.alpha - 1) / np.sqrt(candidates.tail_size)
    weight = weight / weight.sum()
    weight, mean, error = (values[weight > 1e-9] for values in (weight, candidates.alpha, error))
    low, high = (mean - 8 * error).min(), (mean + 8 * error).max()
    for _ in range(50):
        middle = (low + high) / 2
        if weight @ ndtr((middle - mean) / error) < probability:
            low = middle
        else:
            high = middle
    return high


@given(st.integers(3, 400), st.floats(1.1, 20), st.floats(0, 0.9), st.integers(0, 2**32))
def test_quantiles_equal_those_of_plain_bisection(size, alpha, body, seed):
    values = spectrum(np.random.default_rng(seed), size, alpha, body)
    assume(len(values) > 1 and values.min() < values.max())
    fit = fit_power_law(values)
    candidates = xmin_candidates(values, fit)
    low, high = near_tied_interval(fit, candidates)
    assert low == max(min(bisected(candidates, fit, 0.025), fit.alpha), 1)
    assert high == max(bisected(candidates, fit, 0.975), fit.alpha)
