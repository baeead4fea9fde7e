import numpy as np
import pytest

from ww_callbacks.spectra import log_histogram


@pytest.mark.parametrize("spread", [0.0, *np.logspace(-16, -8, 17)])
@pytest.mark.parametrize("value", [1e-300, 1.0, 3.17e27, 1e300])
def test_values_that_are_nearly_equal_are_all_counted(value, spread):
    values = value * np.linspace(1, 1 + spread, 50)
    low, high, counts = log_histogram(values)
    assert low < high
    assert sum(counts) == 50
    assert log_histogram(values, low, high, len(counts)) == (low, high, counts)
