"""Power-law fit to spectra of 8 to 19 values."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from ww_callbacks.spectra.power_law import PowerLawFit, Tails

SHORT = 20
"""Spectra of fewer values are fitted by :func:`fit_short_power_law`."""
SHORTEST = 8
"""Minimum number of values in a tail."""
_LEVEL = 0.95
_LEVEL_OF_CHOICE = 0.98
"""Level at a known xmin that gives about 95 % if xmin is chosen; ``tests/spectra/test_short.py`` measures it."""
_LEAST_LOG_SUM = 1e-12


def fit_short_power_law(values: NDArray[np.floating]) -> PowerLawFit:
    """Fit a power law to the upper tail of a few values.

    It differs from :func:`ww_callbacks.spectra.fit_power_law` in two ways. Only tails of at least eight values are
    candidates, since a tail of two or three values fits anything. And alpha is corrected for the bias of short tails:
    ``alpha_i = 1 + (k - 1) / Σ ln(x_j/x_i)``. xmin minimises the same distance D.

    Source: WeightWatcher 0.7.7 for spectra of fewer than 20 eigenvalues; alpha, D and xmin are identical to its results
    to the last bit. Its objective for xmin with a bonus for long tails has no effect there.

    Args:
        values: positive numbers, shape (n,), n ≥ 8, in any order.

    Returns:
        The fit. Its alpha is infinite if the eight largest values are equal.

    Raises:
        ValueError: as for :func:`ww_callbacks.spectra.fit_power_law`, or there are fewer than eight values.

    Example:
        >>> import numpy as np
        >>> fit = fit_short_power_law(np.random.default_rng(0).pareto(2.0, 12) + 1.0)
        >>> fit.num_pl_spikes >= 8
        True
    """
    tails = Tails(values)
    x, log_x, n = tails.x, tails.log_x, len(tails.x)
    if n < SHORTEST:
        raise ValueError(f"values: expected at least {SHORTEST} numbers, got {n}")
    best, start, alpha = 1.0, 0, math.inf
    for i in range(n - SHORTEST + 1):
        k = float(n - i)
        log_sum = float(np.sum(log_x[i:]) - k * log_x[i])
        if log_sum <= _LEAST_LOG_SUM:
            continue
        exponent = 1 + (k - 1) / log_sum
        model = 1 - (x[i:] / x[i]) ** (1 - exponent)
        distance = float(np.max(np.abs(np.arange(k) / k - model)))
        if distance < best:
            best, start, alpha = distance, i, exponent
    size = n - int(x.searchsorted(x[start]))
    return PowerLawFit(alpha, (alpha - 1) / math.sqrt(size), float(x[start]), float(x[-1]), best, size)


def short_interval(fit: PowerLawFit, total: int) -> tuple[float, float]:
    """95 % confidence interval of alpha for :func:`fit_short_power_law`.

    ``1 + (alpha - 1)·q/(k - 1)``, with q the 2.5 % and the 97.5 % quantile of the gamma distribution of shape k - 1.
    That is exact for eight independent values with a power law. Of more, xmin is chosen, and the quantiles are 1 % and
    99 %: 96 to 98 % of the intervals contain the true alpha if all values follow the power law, fewer if some do not.

    Source: Σ ln(x_j/xmin) over a sample whose smallest value is xmin has this distribution, divided by alpha - 1.

    Args:
        fit: with a finite alpha.
        total: number of values.

    Example:
        >>> low, high = short_interval(PowerLawFit(3.0, 0.7, 1.0, 9.0, 0.1, 8), 8)
        >>> round(low, 2), round(high, 2)
        (1.8, 4.73)
    """
    k, level = fit.num_pl_spikes, _LEVEL if total == SHORTEST else _LEVEL_OF_CHOICE
    low, high = gammaincinv(k - 1, [(1 - level) / 2, (1 + level) / 2]) / (k - 1)
    return 1 + (fit.alpha - 1) * float(low), 1 + (fit.alpha - 1) * float(high)
