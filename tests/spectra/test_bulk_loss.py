import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ww_callbacks.spectra import eigenvalues, marchenko_pastur
from ww_callbacks.spectra.bulk_loss import circle_loss, density_loss


def kernel_density(x):
    """Triangular kernel of width 0.1 on 1000 points, densities above 0.01."""
    grid = np.linspace(0, x[-1] + 0.5, 1000)
    sums = np.concatenate([[0.0], np.cumsum(x)])
    left, middle, right = (np.searchsorted(x, grid + shift) for shift in (-0.1, 0.0, 0.1))
    below = (middle - left) * (1 - grid / 0.1) + (sums[middle] - sums[left]) / 0.1
    above = (right - middle) * (1 + grid / 0.1) - (sums[right] - sums[middle]) / 0.1
    density = (below + above) / (len(x) * 0.1)
    return grid[density > 0.01], density[density > 0.01]


def plain_loss(x, Q):
    """The distance as a function of sigma, computed from the formula."""
    grid, density = kernel_density(np.sqrt(x) if Q == 1 else x)
    if Q == 1:
        grid, density = grid[grid >= 0.1], density[grid >= 0.1]

    def loss(sigma):
        variance = sigma**2
        if Q == 1:
            model = np.sqrt(np.maximum(4 * variance - grid**2, 0)) * (1 / (np.pi * variance))
            return float((model - density) @ (model - density))
        lower, upper = variance * (1 - math.sqrt(1 / Q)) ** 2, variance * (1 + math.sqrt(1 / Q)) ** 2
        mode = grid[np.argmax(density)]
        if upper < mode or upper > grid[-1] or lower > mode:
            return 1e6 * len(grid)
        factor = np.divide(Q / (2 * np.pi), grid, out=np.zeros_like(grid), where=grid > 0) / variance
        model = np.sqrt(np.maximum((upper - grid) * (grid - lower), 0)) * factor
        return float((model - density) @ (model - density))

    return loss


def plain_sigma(x, Q):
    """The first minimum on the whole grid of sigma, then Nelder-Mead as in scipy.optimize.fmin."""
    loss = plain_loss(x, Q)
    start = math.sqrt(x[-1]) / (1 + 1 / math.sqrt(Q))
    first = min(np.arange(0.05 * start, 2.0 * start, 0.01 * start).tolist(), key=loss)
    simplex = sorted([(loss(first), first), (loss(1.05 * first), 1.05 * first)], key=lambda point: point[0])
    for _ in range(100):
        (low, x), (high, y) = simplex
        if abs(y - x) <= 1e-4 and high - low <= 1e-4:
            break
        reflected = (loss(2 * x - y), 2 * x - y)
        if reflected[0] < low:
            expanded = (loss(3 * x - 2 * y), 3 * x - 2 * y)
            new = expanded if expanded[0] < reflected[0] else reflected
        elif reflected[0] < high:
            new = (loss(1.5 * x - 0.5 * y), 1.5 * x - 0.5 * y)
            if new[0] > reflected[0]:
                new = (loss(x + 0.5 * (y - x)), x + 0.5 * (y - x))
        else:
            new = (loss(0.5 * x + 0.5 * y), 0.5 * x + 0.5 * y)
        simplex = sorted([simplex[0], new], key=lambda point: point[0])
    return simplex[0][1]


def gauss(rng, shape):
    return rng.standard_normal(shape)


def heavy(rng, shape):
    rank = max(1, min(shape) // 10)
    left, right = rng.standard_normal((shape[0], rank)), rng.standard_normal((rank, shape[1]))
    return rng.standard_normal(shape) + (left * (rng.pareto(1.5, rank) + 1)) @ right / 3


def student(rng, shape):
    return rng.standard_t(1.5, shape)


def sparse(rng, shape):
    return rng.standard_normal(shape) * (rng.random(shape) < 0.05) + 1e-3 * np.eye(*shape)


def spikes(rng, shape):
    return rng.standard_normal(shape) + 20 * np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1]))


def nearly_orthogonal(rng, shape):
    W = rng.standard_normal(shape if shape[0] >= shape[1] else shape[::-1])
    return np.linalg.qr(W)[0] + 1e-6 * rng.standard_normal(W.shape)


def one_large_element(rng, shape):
    W = rng.standard_normal(shape)
    W[0, 0] = 100 * math.sqrt(max(shape))
    return W


def half_rank(rng, shape):
    rank = (min(shape) + 1) // 2
    return rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))


FAMILIES = [gauss, heavy, student, sparse, spikes, nearly_orthogonal, one_large_element, half_rank]
SHAPES = [(64, 64), (128, 128), (2, 2), (20, 20), (21, 20), (64, 63), (200, 64), (30, 300), (400, 20), (50, 3)]


@given(st.sampled_from(FAMILIES), st.sampled_from(SHAPES), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_sigma_equals_that_of_all_distances(family, shape, seed):
    rows, columns = shape
    values = eigenvalues(family(np.random.default_rng(seed), shape))
    mean = float((values / values[-1]).sum()) / len(values) * float(values[-1])
    Q = max(rows, columns) / min(rows, columns)
    assert marchenko_pastur(values, rows, columns).sigma_mp == plain_sigma(values / mean, Q)


@given(st.sampled_from(FAMILIES), st.sampled_from(SHAPES), st.integers(0, 2**32), st.floats(0.5, 2))
@settings(max_examples=100, deadline=None)
def test_lower_bounds(family, shape, seed, factor):
    """They are below every distance, and close to the smallest."""
    values = eigenvalues(family(np.random.default_rng(seed), shape))
    values = values / values.mean()
    Q = max(shape) / min(shape)
    loss = circle_loss(np.sqrt(values)) if Q == 1 else density_loss(values, Q)
    sigmas = factor * np.linspace(0.02, 1, 100) * math.sqrt(values[-1])
    distances = np.array([loss.at(sigma) for sigma in sigmas.tolist()])
    bounds = loss.lower_bounds(sigmas)
    assert (bounds <= distances).all()
    assert np.count_nonzero(bounds <= distances.min()) < 60 or distances.min() == distances.max()
    assert loss.smallest(sigmas) == (distances.min(), sigmas[np.argmin(distances)])


@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_all_distances_are_equal(spread):
    """No density beyond the kernel width: the first sigma of the grid is where the search starts."""
    x = np.sort(np.r_[spread * np.random.default_rng(0).random(5000), 200.0 + np.arange(20)])
    x = x / x.mean()
    assert marchenko_pastur(x, len(x), len(x)).sigma_mp == plain_sigma(x / x.mean(), 1.0)
