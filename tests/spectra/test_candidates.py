import numpy as np
import pytest

from ww_callbacks.spectra import fit_power_law, xmin_candidates


def directly(x: np.ndarray, k: int) -> tuple[float, float]:
    """Alpha and D of the k largest of ascending values, from the formulas."""
    tail = x[-k:]
    alpha = 1 + k / np.log(tail / tail[0]).sum()
    return alpha, np.abs(1 - (tail / tail[0]) ** (1 - alpha) - np.arange(k) / k).max()


@pytest.mark.parametrize("size", [2, 3, 40, 128, 1500])
def test_alpha_and_distance_of_every_candidate(size):
    x = np.sort(np.random.default_rng(size).pareto(1.5, size) + 1)
    candidates = xmin_candidates(x[::-1], fit_power_law(x))
    expected = np.array([directly(x, k) for k in candidates.tail_size])
    np.testing.assert_allclose(candidates.alpha, expected[:, 0], rtol=1e-9)
    np.testing.assert_allclose(candidates.D, expected[:, 1], atol=1e-12)


def test_short_tails_are_all_candidates_and_long_ones_are_thinned():
    x = np.random.default_rng(0).pareto(2, 3000) + 1
    candidates = xmin_candidates(x, fit_power_law(x))
    assert candidates.tail_size[:127].tolist() == list(range(2, 129))
    assert np.all(candidates.spacing[:120] == 1)
    assert candidates.tail_size[-1] == 3000
    assert len(candidates.D) < 400
    assert candidates.spacing.sum() == pytest.approx(2999, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_the_candidate_with_the_smallest_distance(seed):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.pareto(2, 600) + 1, rng.random(400)])
    fit = fit_power_law(x)
    candidates = xmin_candidates(x, fit)
    best = np.argmin(candidates.D)
    assert candidates.tail_size[best] == fit.num_pl_spikes
    assert (candidates.alpha[best], candidates.D[best]) == pytest.approx((fit.alpha, fit.D), rel=1e-9)


def test_equal_largest_values_are_no_candidates():
    x = np.array([1.0, 2.0, 3.0, 7.0, 7.0, 7.0])
    candidates = xmin_candidates(x, fit_power_law(x))
    assert candidates.tail_size.tolist() == [4, 5, 6]
    assert np.isfinite(candidates.alpha).all()
