import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_callbacks.spectra import det_x_size, log_histogram


@given(st.integers(0, 2**32 - 1), st.integers(2, 80))
def test_equals_the_peers_products(seed, size):
    peer = pytest.importorskip("weightwatcher.RMT_Util")
    values = np.sort(np.random.default_rng(seed).pareto(1.5, size) + 0.01)
    assert det_x_size(values) == peer.detX_constraint(values)[0]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-200, 1e-5, 1e12]))
def test_det_x_is_free_of_scale(seed, factor):
    values = np.random.default_rng(seed).pareto(1.5, 40) + 0.01
    assert det_x_size(values * factor) == det_x_size(values)


def test_zero_eigenvalues_end_the_product():
    assert det_x_size(np.array([0.0, 4.0, 5.0])) == 3


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [-1.0, 2.0], [np.nan, 1.0]])
def test_bad_values_are_named(values):
    with pytest.raises(ValueError, match="values"):
        det_x_size(np.array(values))


@given(st.integers(1, 5000), st.integers(0, 99))
def test_histogram_counts_every_positive_value_in_few_bins(size, seed):
    values = np.random.default_rng(seed).pareto(1, size) + 1e-9
    low, high, counts = log_histogram(np.r_[0.0, values])
    assert sum(counts) == size
    assert len(counts) <= 64
    assert low < high


def test_histogram_of_a_range():
    assert log_histogram(np.array([1.0, 10.0, 1000.0]), 0.0, 2.0, 2) == (0.0, 2.0, (1, 1))


@pytest.mark.parametrize("values", [[], [0.0], [1.0, np.nan]])
def test_histogram_names_bad_values(values):
    with pytest.raises(ValueError, match="values"):
        log_histogram(np.array(values))
