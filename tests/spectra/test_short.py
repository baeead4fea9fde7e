import contextlib
import io

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ww_callbacks.spectra import fit_short_power_law, short_interval

weightwatcher = pytest.importorskip("weightwatcher.WW_powerlaw")

short_spectra = arrays(np.float64, st.integers(8, 19), elements=st.floats(1e-4, 1e4))


@given(short_spectra)
def test_equals_weightwatcher_bitwise(values):
    assume(values.min() < values.max())
    fit = fit_short_power_law(values)
    assume(np.isfinite(fit.alpha))
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        peer = weightwatcher.WWFit(values)
    assert (fit.alpha, fit.D, fit.xmin, fit.xmax) == (peer.alpha, peer.D, peer.xmin, peer.xmax)
    if np.count_nonzero(values == fit.xmin) == 1:
        assert fit.sigma == peer.sigma


def test_no_tail_has_fewer_than_eight_values():
    values = np.r_[np.linspace(1, 1.1, 11), 2.0 ** np.arange(8)]
    assert fit_short_power_law(values).num_pl_spikes >= 8
    assert fit_short_power_law(np.r_[1.0, 1.5, np.full(8, 2.0)]).num_pl_spikes > 8


def test_alpha_is_infinite_if_the_eight_largest_values_are_equal():
    assert fit_short_power_law(np.r_[2.0, np.full(8, 2.0 * (1 + 1e-15))]).alpha == np.inf


@pytest.mark.parametrize(("size", "least", "most"), [(8, 0.93, 0.97), (12, 0.94, 0.99), (19, 0.93, 0.98)])
@pytest.mark.parametrize("alpha", [2.0, 5.0])
def test_coverage_of_the_interval(size, least, most, alpha):
    """With 8 values the only tail is the whole sample, and the interval is exact: 95 %."""
    rng = np.random.default_rng([size, int(alpha)])
    intervals = [short_interval(fit_short_power_law(rng.pareto(alpha - 1, size) + 1), size) for _ in range(1000)]
    share = np.mean([low < alpha < high for low, high in intervals])
    print(f"{size} values, alpha {alpha}: {share:.1%} of the intervals contain it")
    assert least < share < most


@pytest.mark.parametrize("values", [np.arange(1.0, 8.0), np.full(10, 2.0), np.r_[0.0, np.arange(1.0, 9.0)]])
def test_invalid_values_raise(values):
    with pytest.raises(ValueError, match="values"):
        fit_short_power_law(values)
