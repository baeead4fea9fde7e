import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_callbacks.spectra import log_histogram


@pytest.mark.parametrize("spread", [0.0, *np.logspace(-16, -8, 17)])
@pytest.mark.parametrize("value", [1e-300, 1.0, 3.17e27, 1e300])
def test_nearly_equal_values_are_all_counted(value, spread):
    values = value * np.linspace(1, 1 + spread, 50)
    low, high, counts = log_histogram(values)
    assert low < high
    assert sum(counts) == 50
    assert log_histogram(values, low, high, len(counts)) == (low, high, counts)


@given(st.integers(1, 5000), st.integers(0, 99))
def test_counts_every_positive_value(size, seed):
    values = np.random.default_rng(seed).pareto(1, size) + 1e-9
    low, high, counts = log_histogram(np.r_[0.0, values])
    assert sum(counts) == size
    assert len(counts) <= 64
    assert low < high


def test_counts_of_a_given_range():
    assert log_histogram(np.array([1.0, 10.0, 1000.0]), 0.0, 2.0, 2) == (0.0, 2.0, (1, 1))


@pytest.mark.parametrize("values", [[], [0.0], [1.0, np.nan]])
def test_invalid_values_raise(values):
    with pytest.raises(ValueError, match="values"):
        log_histogram(np.array(values))


@given(st.integers(1, 500), st.integers(0, 99), st.sampled_from([None, (-0.5, 1.0)]))
def test_counts_equal_those_of_numpy(size, seed, ends):
    values = np.round(np.random.default_rng(seed).pareto(1, size), 1) + 0.1
    low, high, counts = log_histogram(values, *(ends or ()))
    assert counts == tuple(np.histogram(np.log10(values), len(counts), (low, high))[0])
