"""Trends against known truths: coverage with correlated noise, and what does not depend on units or spacing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ww_callbacks.signals.stalled import is_stalled
from ww_callbacks.signals.trend import SURE_FALL, find_fall, fit_slope


def correlated(rng, size, rho):
    """Noise of standard deviation 1 whose neighbours have the correlation rho."""
    values = rng.standard_normal(size)
    for i in range(1, size):
        values[i] = rho * values[i - 1] + math.sqrt(1 - rho * rho) * values[i]
    return values


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("size", [16, 30, 80])
def test_a_lower_95_percent_bound_is_below_the_slope_in_95_percent_of_all_series(size, rho):
    rng = np.random.default_rng(size)
    at = np.log2(np.arange(size, 2 * size))
    wrong = sum(
        fit_slope(correlated(rng, size, rho) - at, at, range(size)).probability_below(-1) < 0.05 for _ in range(200)
    )
    assert stats.binomtest(wrong, 200, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize(("size", "rho"), [(12, 0.8), (40, 0.0), (40, 0.8)])
def test_a_fall_is_rarely_claimed_of_noise(size, rho):
    rng = np.random.default_rng(size)
    at = np.log2(np.arange(1, size + 1))
    claims = sum(find_fall(correlated(rng, size, rho), at, range(size)).is_sure for _ in range(500))
    assert claims <= 3
    assert SURE_FALL < 0.001


def test_the_slope_of_a_line_with_little_noise_is_known_closely():
    rng = np.random.default_rng(0)
    at = np.arange(30.0)
    slope = fit_slope(2 - 0.5 * at + 0.01 * rng.standard_normal(30), at, at)
    assert slope.mean == pytest.approx(-0.5, abs=0.001)
    assert -0.51 < slope.bound(0.005) < slope.bound(0.5) < slope.bound(0.995) < -0.49
    assert slope.probability_below(slope.bound(0.2)) == pytest.approx(0.2, abs=1e-6)


def test_correlated_noise_widens_the_interval():
    rng = np.random.default_rng(3)
    at = np.arange(40.0)
    independent, lasting = (fit_slope(correlated(rng, 40, rho), at, at) for rho in (0.0, 0.9))
    assert lasting.bound(0.95) - lasting.bound(0.05) > 2 * (independent.bound(0.95) - independent.bound(0.05))


def test_more_results_of_a_lasting_noise_say_little_more():
    rng = np.random.default_rng(5)
    widths = []
    for _ in range(40):
        series = correlated(rng, 320, 0.99)
        at = np.linspace(0, 1, 320)
        dense, sparse = (fit_slope(series[::gap], at[::gap], range(0, 320, gap)) for gap in (1, 8))
        widths.append((sparse.bound(0.95) - sparse.bound(0.05)) / (dense.bound(0.95) - dense.bound(0.05)))
    assert 1 < np.median(widths) < 2.2  # eight times as many independent values would give 2.8


@pytest.mark.parametrize("bend", [8, 16, 32])
def test_the_place_where_a_fall_ends_is_found(bend):
    rng = np.random.default_rng(bend)
    values = np.maximum(bend - np.arange(40), 0) * 0.1 + 2.5 + 0.01 * rng.standard_normal(40)
    fall = find_fall(values, range(40), range(40))
    assert fall.is_sure
    assert fall.position == pytest.approx(bend, abs=2)
    assert fall.size == pytest.approx(0.1 * bend, rel=0.15)
    assert not find_fall(-values, range(40), range(40)).is_sure


@given(st.floats(1e-6, 1e6), st.floats(-1e3, 1e3), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_units_and_origin_do_not_matter(unit, origin, seed):
    values = 0.1 * np.random.default_rng(seed).standard_normal(12) - np.arange(12)
    one, other = (fit_slope(v, range(12), range(12)) for v in (values, unit * (values + origin)))
    assert other.mean == pytest.approx(unit * one.mean, rel=1e-5)
    assert other.bound(0.05) == pytest.approx(unit * one.bound(0.05), rel=1e-4)
    moved = find_fall(unit * (values + origin), range(12), range(12))
    assert moved.position == find_fall(values, range(12), range(12)).position


def test_unit_of_time_and_gaps_are_accepted_and_bad_series_are_refused():
    values = [3.0, 2.9, 2.7, 2.8, 2.5, 2.4, 2.6, 2.2, 2.1]
    times = [0, 1, 2, 3, 7, 8, 9, 20, 21]
    one, thousand = (fit_slope(values, times, [unit * time for time in times]) for unit in (1, 1000))
    assert one.bound(0.05) == pytest.approx(thousand.bound(0.05))
    with pytest.raises(ValueError, match="values: expected at least 8, got 7"):
        fit_slope([1.0] * 7, range(7), range(7))
    with pytest.raises(ValueError, match="at: expected 8 ascending numbers"):
        fit_slope([1.0] * 8, [7] * 8, range(8))
    with pytest.raises(ValueError, match="times: expected 8 ascending numbers"):
        find_fall([1.0] * 8, range(8), range(7))


def test_constant_series_have_no_slope_and_no_fall():
    slope = fit_slope([3.0] * 10, range(10), range(10))
    assert slope.mean == 0
    assert abs(slope.bound(0.005)) < 1e-9
    assert not find_fall([3.0] * 10, range(10), range(10)).is_sure


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20), st.integers(1, 10))
def test_stalled_is_a_question_of_the_best_value(values, patience):
    stalled = is_stalled(values, patience)
    assert is_stalled([-value for value in values], patience, "max") == stalled
    if len(values) <= patience:
        assert not stalled
