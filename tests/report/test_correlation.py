import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ww_callbacks.report.correlation import correlate, kendall, pearson

pairs = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=12)


@given(pairs)
def test_both_coefficients_agree_with_scipy_also_with_ties(points):
    x, y = ([float(value) for value in side] for side in zip(*points, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert pearson(x, y) is None
        assert kendall(x, y) is None
    else:
        assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
        assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def one(values, shuffled, rescaled, quality=(8.0, 7.0, 6.5, 6.0, 5.0, 4.2)):
    return correlate(quality, {"m": values}, {"m": shuffled}, {"m": rescaled})[0]


ALONG = [8.1, 7.0, 6.4, 6.0, 5.1, 4.2]
NOISE = [1.0, 5.0, 2.0, 4.0, 2.5, 3.0]
BACK = ALONG[::-1]


@pytest.mark.parametrize(
    ("values", "shuffled", "rescaled", "cause"),
    [
        (ALONG, ALONG, BACK, "scale and depth"),
        (ALONG, ALONG, ALONG, "scale and depth"),
        (ALONG, NOISE, BACK, "scale"),
        (ALONG, BACK, NOISE, "scale"),
        (ALONG, NOISE, ALONG, "shape"),
        (BACK, NOISE, BACK, "shape"),
        (NOISE, ALONG, ALONG, "chance"),
        ([1.0] * 6, ALONG, ALONG, "chance"),
    ],
)
def test_the_cause_is_what_the_controls_leave(values, shuffled, rescaled, cause):
    assert one(values, shuffled, rescaled).cause == cause


def test_shape_needs_more_the_more_metrics_are_looked_at():
    values = [8.0, 7.6, 6.0, 6.4, 5.5, 4.4]
    alone = one(values, NOISE, values)
    among = correlate(
        (8.0, 7.0, 6.5, 6.0, 5.0, 4.2),
        dict.fromkeys(map(str, range(40)), values),
        dict.fromkeys(map(str, range(40)), NOISE),
        dict.fromkeys(map(str, range(40)), values),
    )[0]
    assert 0.05 / 40 < alone.p_value < 0.05
    assert (alone.cause, among.cause) == ("shape", "chance")


def test_p_value_is_that_of_the_t_test_and_models_without_a_value_are_left_out():
    values = [1.0, None, 3.0, 2.0, 5.0, 4.0]
    found = one(values, values, values)
    kept = [0, 2, 3, 4, 5]
    expected = stats.pearsonr(np.array(values, float)[kept], np.array([8.0, 7.0, 6.5, 6.0, 5.0, 4.2])[kept])
    assert found.n == 5
    assert found.p_value == pytest.approx(expected.pvalue)


def test_two_models_do_not_correlate():
    found = one([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], quality=(1.0, 2.0))
    assert (found.pearson, found.kendall, found.p_value, found.cause) == (None, None, None, "chance")
