import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_callbacks.spectra import (
    edge_threshold,
    eigenvalues,
    element_variance,
    marchenko_pastur,
    marchenko_pastur_edge,
    tracy_widom_isf,
    tracy_widom_sf,
)


def heavy(seed: int, rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((rows, columns))
    return W + (rng.standard_normal((rows, 10)) * (rng.pareto(1.5, 10) + 1)) @ rng.standard_normal((10, columns)) / 5


def test_tracy_widom_against_published_quantiles():
    """Johnstone (2001), table 1, and Bornemann (2010)."""
    for x, probability in ((-3.90, 0.01), (-3.18, 0.05), (-1.27, 0.5), (0.45, 0.9), (0.98, 0.95), (2.02, 0.99)):
        assert tracy_widom_sf(x) == pytest.approx(1 - probability, abs=2.5e-3)


@given(st.floats(-10, 30))
def test_tracy_widom_sf_decreases(x):
    assert 0 <= tracy_widom_sf(x + 0.1) <= tracy_widom_sf(x) <= 1


@pytest.mark.parametrize("level", [1e-10, 1e-6, 1e-3 / 49, 0.001, 0.5, 0.999])
def test_tracy_widom_isf_inverts_sf(level):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tracy_widom_sf(tracy_widom_isf.__wrapped__(level)) == pytest.approx(level, rel=1e-5)


@pytest.mark.parametrize("level", [0, -1, 1, math.nan])
def test_invalid_level_raises(level):
    with pytest.raises(ValueError, match="level"):
        tracy_widom_isf(level)


def test_edge_matches_random_matrices():
    rng = np.random.default_rng(0)
    largest = np.array([eigenvalues(rng.standard_normal((100, 50)))[-1] for _ in range(200)])
    edge, width = marchenko_pastur_edge(1, 100, 50)
    assert ((largest - edge) / width).mean() == pytest.approx(-1.2065, abs=0.3)
    assert 0.02 < (largest > edge_threshold(1, 100, 50, 0.05)).mean() < 0.08


@pytest.mark.parametrize(("variance", "rows"), [(-1, 3), (math.nan, 3), (math.inf, 3), (1, 0)])
def test_invalid_edge_arguments_raise(variance, rows):
    with pytest.raises(ValueError, match=r"variance|rows"):
        marchenko_pastur_edge(variance, rows, 2)


@pytest.mark.parametrize("mean", [0.0, 0.01, 1.0, 1e6])
def test_element_variance_with_and_without_sum_of_squares(mean):
    W = np.random.default_rng(0).standard_normal((50, 40)) + mean
    assert element_variance(W) == pytest.approx(W.var(), rel=1e-12)
    assert element_variance(W, float((W**2).sum())) == pytest.approx(W.var(), rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "rows", "columns", "seed"), [("heavy", 300, 100, 0), ("gauss", 200, 80, 1), ("heavy", 201, 200, 3)]
)
def test_sigma_equals_weightwatcher(kind, rows, columns, seed):
    peer = pytest.importorskip("weightwatcher.RMT_Util")
    W = heavy(seed, rows, columns) if kind == "heavy" else np.random.default_rng(seed).standard_normal((rows, columns))
    values = eigenvalues(W)
    expected, _ = peer.fit_density_with_range(values / values.mean(), rows / columns)
    assert marchenko_pastur(values, rows, columns).sigma_mp == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_square_matrix_has_sigma_one(scale):
    """Sigma and the edges match the elements. (WeightWatcher's quarter circle ends at 2 for every sigma.)"""
    W = scale * np.random.default_rng(0).standard_normal((300, 300))
    fit = marchenko_pastur(eigenvalues(W), 300, 300)
    assert fit.sigma_mp == pytest.approx(1, abs=0.02)
    assert fit.bulk_max == pytest.approx(4 * 300 * scale**2, rel=0.03)
    assert fit.num_spikes == 0


def test_bulk_of_square_matrix_with_spikes():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((300, 300))
    left, right = np.linalg.qr(rng.standard_normal((300, 5)))[0], np.linalg.qr(rng.standard_normal((300, 5)))[0]
    fit = marchenko_pastur(eigenvalues(W + 60 * left @ right.T), 300, 300)
    assert fit.num_spikes == 5
    assert fit.bulk_max == pytest.approx(4 * 300, rel=0.05)


@pytest.mark.parametrize("planted", [0, 1, 4])
def test_spikes_are_counted(planted):
    rng = np.random.default_rng(planted)
    left = np.linalg.qr(rng.standard_normal((600, 4)))[0][:, :planted]
    right = np.linalg.qr(rng.standard_normal((300, 4)))[0][:, :planted]
    fit = marchenko_pastur(eigenvalues(rng.standard_normal((600, 300)) + 60 * left @ right.T), 600, 300)
    assert fit.num_spikes == planted
    assert fit.bulk_min == pytest.approx((np.sqrt(600) - np.sqrt(300)) ** 2, rel=0.1)


@pytest.mark.parametrize("factor", [1e-30, 1e20])
def test_bulk_fit_is_scale_invariant(factor):
    values = eigenvalues(heavy(0, 200, 100))
    one, scaled = marchenko_pastur(values, 200, 100), marchenko_pastur(values * factor, 200, 100)
    assert scaled.sigma_mp == pytest.approx(one.sigma_mp, rel=1e-5)
    assert scaled.bulk_max == pytest.approx(one.bulk_max * factor, rel=1e-5)


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0], [-1.0, 1.0], [1.0, np.nan]])
def test_invalid_spectra_raise(values):
    with pytest.raises(ValueError, match="values"):
        marchenko_pastur(np.array(values), 3, 2)
    with pytest.raises(ValueError, match="rows"):
        marchenko_pastur(np.array([1.0, 2.0]), 0, 2)
