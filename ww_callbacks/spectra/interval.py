"""Confidence intervals of alpha that account for the choice of xmin."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.power_law import PowerLawFit, fit_power_law

INFLATION = ((30, 1.45), (60, 1.25), (math.inf, 1.15))
"""(upper limit of the tail size, factor on the asymptotic error); measured by ``benchmarks/interval_inflation.py``."""

REPLICATES = 40
_NORMAL = 1.96
_STUDENT = 2.02  # 97.5 % quantile for 39 degrees of freedom


def asymptotic_interval(alpha: float, sigma: float, tail_size: int) -> tuple[float, float]:
    """95 % confidence interval of alpha: ±1.96 times the error (alpha - 1)/√k, times a factor for the choice of xmin.

    The factor ranges from 1.15 for long tails to 1.45 for short tails and depends only on the tail size. It comes
    from simulated samples with a power-law tail, with and without a log-normal body. On independent values 90 to 99 %
    of the intervals contain the true alpha. Eigenvalues of a random matrix are not independent. For them the interval
    describes the uncertainty of the fit, not the variation from step to step, which is smaller.

    Args:
        alpha: fitted exponent.
        sigma: asymptotic standard error of alpha.
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
    """95 % confidence interval of alpha from resampled spectra, each refitted including xmin.

    1 + (alpha - 1)·exp(±2.02 s), where s is the standard deviation of ln(alpha - 1) over the replicates. Quantiles
    would need many more replicates.

    Source: Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), §13.3; Clauset, Shalizi and Newman (2009),
    §3.3, for resampling with xmin.

    Args:
        values: positive numbers, shape (n,), n ≥ 2.
        fit: the power law fitted to ``values``.
        seed: seed of the resampling.
        replicates: number of resampled spectra, at least 2.

    Returns:
        (low, high), both above 1.

    Raises:
        ValueError: ``replicates`` is smaller than 2, or ``values`` is not positive and finite, or is constant or
            almost constant.

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
        raise ValueError("values: almost no resampled spectrum has a tail to fit")
    factor = math.exp(_STUDENT * float(np.std(np.log(np.subtract(alphas, 1)), ddof=1)))
    return 1 + (fit.alpha - 1) / factor, 1 + (fit.alpha - 1) * factor


def rounding_shift(values: NDArray[np.floating], fit: PowerLawFit, bound: float, *, seed: int = 0) -> float:
    """Change of alpha if every value changes by at most ``bound``: an estimate of the rounding error of a fit.

    All values are shifted up, all are shifted down, and four times each value is shifted by a random amount. The
    largest change of alpha is returned.

    Args:
        values: positive numbers, shape (n,), n ≥ 2.
        fit: the power law fitted to ``values``.
        bound: maximum error of a value, such as :func:`float32_error`.
        seed: seed of the random shifts.

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
