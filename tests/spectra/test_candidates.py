import numpy as np
import pytest

from ww_callbacks.spectra import XminCandidates, fit_power_law, stable_alpha, xmin_candidates


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


def alphas(x: np.ndarray) -> tuple[float, float]:
    fit = fit_power_law(x)
    return fit.alpha, stable_alpha(xmin_candidates(x, fit))


@pytest.mark.parametrize("alpha", [2.0, 4.0])
@pytest.mark.parametrize("body", [0, 150])
def test_stable_alpha_is_unbiased_and_scatters_less(alpha, body):
    rng = np.random.default_rng(body)
    found = np.array([alphas(np.concatenate([rng.pareto(alpha - 1, 300) + 1, rng.random(body)])) for _ in range(150)])
    (plain, stable), (sd, stable_sd) = found.mean(axis=0), found.std(axis=0)
    assert stable == pytest.approx(plain, rel=0.02)
    assert stable == pytest.approx(alpha, rel=0.05)
    assert stable_sd < sd


def test_stable_alpha_does_not_jump_between_near_ties():
    rng = np.random.default_rng(5)
    ends = [np.sort(np.concatenate([rng.pareto(1, 80) + 1, 5 * (rng.pareto(5, 20) + 1)])) for _ in range(2)]
    largest = []
    for steps in (200, 800):
        path = np.linspace(0, 1, steps + 1)
        series = np.array([alphas(ends[0] ** (1 - t) * ends[1] ** t) for t in path])
        largest.append(np.abs(np.diff(series, axis=0)).max(axis=0))
    (jump, coarse), (same_jump, fine) = largest
    assert jump > 1
    assert same_jump > 1  # not smaller at a quarter of the distance
    assert coarse < 0.02
    assert fine < coarse / 3


def test_stable_alpha_of_equal_and_unequal_candidates():
    alpha, size, spacing = np.array([2.0, 3.0]), np.array([100, 100]), np.ones(2)
    assert stable_alpha(XminCandidates(alpha, np.array([0.1, 0.1]), size, spacing)) == pytest.approx(1 + 4 / 3)
    assert stable_alpha(XminCandidates(alpha, np.array([0.1, 0.9]), size, spacing)) == pytest.approx(2)
    with pytest.raises(ValueError, match="candidates"):
        stable_alpha(XminCandidates(*[np.empty(0)] * 4))
