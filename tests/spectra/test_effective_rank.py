import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_callbacks.spectra import det_x_size


@given(st.integers(0, 2**32 - 1), st.integers(2, 80))
def test_equals_weightwatcher(seed, size):
    peer = pytest.importorskip("weightwatcher.RMT_Util")
    values = np.sort(np.random.default_rng(seed).pareto(1.5, size) + 0.01)
    assert det_x_size(values) == peer.detX_constraint(values)[0]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-200, 1e-5, 1e12]))
def test_det_x_is_scale_invariant(seed, factor):
    values = np.random.default_rng(seed).pareto(1.5, 40) + 0.01
    assert det_x_size(values * factor) == det_x_size(values)


def test_zero_eigenvalues_end_the_product():
    assert det_x_size(np.array([0.0, 4.0, 5.0])) == 3


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [-1.0, 2.0], [np.nan, 1.0]])
def test_invalid_values_raise(values):
    with pytest.raises(ValueError, match="values"):
        det_x_size(np.array(values))
