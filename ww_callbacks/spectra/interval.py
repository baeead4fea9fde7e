"""Intervals of alpha that count the choice of xmin."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.power_law import PowerLawFit, fit_power_law

INFLATION = ((30, 1.45), (60, 1.25), (math.inf, 1.15))
"""(tail size below which it holds, factor on the asymptotic error): ``benchmarks/interval_inflation.py``."""

REPLICATES = 40
_NORMAL = 1.96
_STUDENT = 2.02  # the 97.5 % quantile at 39 degrees of freedom


def asymptotic_interval(alpha: float, sigma: float, tail_size: int) -> tuple[float, float]:
    """A 95 % interval of alpha: the error (alpha - 1)/√k times 1.96 and a factor for the choice of xmin.

    The factor, 1.15 for long tails, 1.45 for short ones, comes from a simulation of samples with a power-law
    tail, with and without a log-normal body, and depends on the tail size alone. On independent values 90 to 99 %
    of the intervals hold the true alpha. Eigenvalues of a random matrix are not independent, so for them the interval
    describes the fit, not the scatter from step to step, which is smaller.

    Args:
        alpha: fitted exponent.
        sigma: its asymptotic standard error.
        tail_size: number of values in the tail.

    Returns:
        (low, high).

    Example:
        >>> low, high = asymptotic_interval(3.0, 0.1, 400)
        >>> round(low, 2), round(high, 2)
        (2.77, 3.23)
    """
    factor = next(value for limit, value in INFLATION if tail_size < limit)
    half = _NORMAL * factor * sigma
    return alpha - half, alpha + half


def bootstrap_interval(
    values: NDArray[np.floating], fit: PowerLawFit, *, seed: int = 0, replicates: int = REPLICATES
) -> tuple[float, float]:
    """A 95 % interval of alpha from the scatter of resampled spectra, xmin chosen anew in each.

    1 + (alpha - 1)·exp(±2.02 s) with s the standard deviation of ln(alpha - 1) over the replicates; quantiles would
    need many more of them.

    Source: Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), §13.3; Clauset, Shalizi and Newman (2009),
    §3.3, for resampling with xmin.

    Args:
        values: positive numbers, shape (n,), n ≥ 2.
        fit: the power law fitted to them.
        seed: of the resampling.
        replicates: number of resampled spectra, at least 2.

    Returns:
        (low, high), both above 1.

    Raises:
        ValueError: ``replicates`` is smaller than 2, or ``values`` is not positive and finite, or constant or
            nearly so.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).pareto(2.0, 500) + 1.0
        >>> low, high = bootstrap_interval(x, fit_power_law(x))
        >>> low < 3 < high
        True
    """
    if replicates < 2:
        raise ValueError(f"replicates: expected at least 2, got {replicates}")
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or not values.min() < values.max():
        raise ValueError("values: expected at least two different numbers")
    rng = np.random.default_rng([seed, len(values)])
    alphas: list[float] = []
    for _ in range(10 * replicates):
        if len(alphas) == replicates:
            break
        resampled = rng.choice(values, len(values))
        alpha = fit_power_law(resampled).alpha if resampled.min() < resampled.max() else math.inf
        if 1 < alpha < math.inf:
            alphas.append(alpha)
    if len(alphas) < replicates:
        raise ValueError("values: hardly a resampled spectrum has a tail to fit")
    factor = math.exp(_STUDENT * float(np.std(np.log(np.subtract(alphas, 1)), ddof=1)))
    return 1 + (fit.alpha - 1) / factor, 1 + (fit.alpha - 1) * factor


def rounding_shift(values: NDArray[np.floating], fit: PowerLawFit, bound: float, *, seed: int = 0) -> float:
    """How far alpha moves when every value is moved by at most ``bound``: an estimate of the rounding error of a fit.

    All values up, all down, and four times each by a random amount; the largest change counts.

    Args:
        values: positive numbers, shape (n,), n ≥ 2.
        fit: the power law fitted to them.
        bound: largest error of a value, such as :func:`float32_error`.
        seed: of the random amounts.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).pareto(2.0, 500) + 1.0
        >>> rounding_shift(x, fit_power_law(x), 1e-6) < 1e-3
        True
    """
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng([seed, len(values)])
    moves = [np.ones(len(values)), -np.ones(len(values)), *rng.uniform(-1, 1, (4, len(values)))]
    shifts = []
    for move in moves:
        moved = values + bound * move
        moved = moved[moved > 0]
        if len(moved) > 1 and np.ptp(moved) > 0:
            shifts.append(abs(fit_power_law(moved).alpha - fit.alpha))
    return max(shifts, default=math.inf)
