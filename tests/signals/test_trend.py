"""Slopes and change points against known truths and a peer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from ww_callbacks.signals.stalled import is_stalled
from ww_callbacks.signals.trend import FALL_QUANTILES, find_change, fit_line, middle_slope


@given(st.lists(st.integers(-100, 100), min_size=4, max_size=40), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_lines_are_those_of_scipy(values, seed):
    assume(len(set(values)) > 1)
    at = np.sort(np.random.default_rng(seed).uniform(1, 10, len(values)))
    line, peer = fit_line(values, list(at)), stats.linregress(at, values)
    assert line.slope == pytest.approx(peer.slope, abs=1e-6, rel=1e-6)
    assert line.slope_error == pytest.approx(peer.stderr, abs=1e-5, rel=1e-5)
    low = peer.slope + stats.t.ppf(0.05, len(values) - 2) * peer.stderr
    assert line.slope_bound(0.05) == pytest.approx(low, abs=1e-4, rel=1e-5)


def test_lines_through_too_few_values_or_one_place_are_refused():
    with pytest.raises(ValueError, match="values: expected at least 4, got 3"):
        fit_line([1, 2, 3])
    with pytest.raises(ValueError, match="at: expected different places"):
        fit_line([1, 2, 3, 4], [7, 7, 7, 7])
    with pytest.raises(ValueError, match="values: expected at least 8, got 7"):
        find_change([1.0] * 7)


@pytest.mark.parametrize("bend", [5, 12, 25])
def test_the_place_where_a_fall_ends_is_found(bend):
    rng = np.random.default_rng(bend)
    values = np.maximum(bend - np.arange(40), 0) * 0.1 + 2.5 + 0.01 * rng.standard_normal(40)
    change = find_change(list(values))
    assert change.is_fall
    assert change.position == pytest.approx(bend, abs=1)
    assert change.fall == pytest.approx(0.1 * bend, abs=0.05)
    assert not find_change(list(-values)).is_fall


@pytest.mark.parametrize("size", [8, 20, 100])
def test_a_fall_is_claimed_of_noise_as_rarely_as_stated(size):
    rng = np.random.default_rng(size)
    claims = sum(find_change(list(3 + rng.standard_normal(size))).is_fall for _ in range(3000))
    assert stats.binomtest(claims, 3000, 0.001).pvalue > 0.001
    assert claims <= 9


@given(
    st.floats(1e-6, 1e6),
    st.floats(-1e3, 1e3),
    st.lists(st.integers(-50, 50), min_size=8, max_size=30),
)
@settings(max_examples=50, deadline=None)
def test_units_and_origin_do_not_matter_for_a_change_point(unit, origin, values):
    change = find_change([float(value) for value in values])
    moved = find_change([unit * (value + origin) for value in values])
    if change.statistic > 1.01 * max(FALL_QUANTILES.values()) or change.statistic < 0.99 * min(FALL_QUANTILES.values()):
        assert moved.is_fall == change.is_fall


def test_a_jump_does_not_move_the_middle_slope():
    falling = [5 - 0.1 * i for i in range(10)]
    jumped = [value + (1.0 if i > 4 else 0.0) for i, value in enumerate(falling)]
    assert middle_slope(jumped, range(10)) == pytest.approx(middle_slope(falling, range(10))) == pytest.approx(-0.1)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20), st.integers(1, 10))
def test_stalled_is_a_question_of_the_best_value(values, patience):
    stalled = is_stalled(values, patience)
    assert is_stalled([-value for value in values], patience, "max") == stalled
    if len(values) <= patience:
        assert not stalled
