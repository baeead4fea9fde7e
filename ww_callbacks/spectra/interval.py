"""Confidence intervals of alpha that account for the choice of xmin."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from ww_callbacks.spectra.candidates import XminCandidates, xmin_candidates
from ww_callbacks.spectra.power_law import PowerLawFit, fit_power_law
from ww_callbacks.spectra.types import Floats

INFLATION = ((30, 1.45), (60, 1.25), (math.inf, 1.15))
"""(upper limit of the tail size, factor on the asymptotic error); measured by ``benchmarks/interval_inflation.py``."""

NEAR_TIE = 0.03
"""Excess of √k·D that reduces the weight of a candidate for xmin to 1/e in :func:`near_tied_interval`."""

CANDIDATE_INFLATION = 1.15
"""Factor on the asymptotic error of each candidate in :func:`near_tied_interval`. Like :data:`NEAR_TIE`, it is chosen
and judged by ``benchmarks/interval_stability.py``."""

REPLICATES = 40
_NORMAL = 1.96
_STUDENT = 2.02  # 97.5 % quantile for 39 degrees of freedom
_EPS = float(np.finfo(np.float64).eps)
_NDTR_ERROR = 5e-14
"""Bound of the relative error of ``ndtr``."""
_SECANT_STEPS = 20


def asymptotic_interval(alpha: float, sigma: float, tail_size: int) -> tuple[float, float]:
    """95 % confidence interval of alpha: ±1.96 times the error (alpha - 1)/√k, times a factor for the choice of xmin.

    The factor ranges from 1.15 for long tails to 1.45 for short tails and depends only on the tail size. It comes
    from simulated samples with a power-law tail, with and without a log-normal body. On independent values 90 to 99 %
    of the intervals contain the true alpha. Eigenvalues of a random matrix are not independent. For them the interval
    describes the uncertainty of the fit, not the variation from step to step, which is smaller unless xmin jumps: see
    :func:`near_tied_interval`.

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


def near_tied_interval(fit: PowerLawFit, candidates: XminCandidates) -> tuple[float, float]:
    """95 % confidence interval of alpha that takes all nearly equal choices of xmin into account.

    If several xmin fit almost equally well, a small change of the values decides which of them is chosen, and alpha
    jumps. The interval is from the 2.5 % to the 97.5 % quantile of a mixture of normal distributions, one for each
    candidate i, with mean alpha_i and standard deviation 1.15·(alpha_i - 1)/√k_i. The weights are proportional to
    ``exp(-√k·(D_i - D)/0.03)/k_i``, where k and D belong to the fit. The factor 1/k_i makes them uniform in ln k_i.
    With a single candidate the interval is alpha ± 1.96·1.15·sigma.

    Source: averaging over models as in Hoeting et al., *Bayesian Model Averaging* (1999), with weights and a factor
    from simulated samples and from networks with 1 % of noise on the weights.

    Args:
        fit: the fitted power law. Its alpha is finite.
        candidates: the candidates for its xmin.

    Returns:
        (low, high), with 1 ≤ low ≤ ``fit.alpha`` ≤ high.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).pareto(2.0, 500) + 1.0
        >>> fit = fit_power_law(x)
        >>> low, high = near_tied_interval(fit, xmin_candidates(x, fit))
        >>> low < 3 < high
        True
    """
    excess = np.maximum(candidates.D - fit.D, 0) * math.sqrt(fit.num_pl_spikes) / NEAR_TIE
    weight = np.exp(-excess) * candidates.spacing / candidates.tail_size
    error = CANDIDATE_INFLATION * (candidates.alpha - 1) / np.sqrt(candidates.tail_size)
    low, high = (_mixture_quantile(weight / weight.sum(), candidates.alpha, error, p) for p in (0.025, 0.975))
    return max(min(low, fit.alpha), 1.0), max(high, fit.alpha)


def _mixture_quantile(weight: Floats, mean: Floats, error: Floats, probability: float) -> float:
    """Quantile of a mixture of normal distributions, by bisection."""
    relevant = weight > 1e-9
    weight, mean, error = weight[relevant], mean[relevant], error[relevant]
    low, high = float((mean - 8 * error).min()), float((mean + 8 * error).max())
    z = np.empty_like(mean)

    def share(x: float) -> float:
        ndtr(np.divide(np.subtract(x, mean, out=z), error, out=z), out=z)
        return float(weight.dot(z))

    centre = float(weight.dot(mean))
    deviation = math.sqrt(float(weight.dot(np.square(error) + np.square(mean - centre))))
    start = min(max(centre + math.copysign(_NORMAL, probability - 0.5) * deviation, low), high)
    rounding = 2 * probability * (len(mean) * _EPS + _NDTR_ERROR)
    below, above = _bracket(share, probability, rounding, (low, start, high))
    for _ in range(50):
        middle = (low + high) / 2
        if middle <= below or (middle < above and share(middle) < probability):
            low = middle
        else:
            high = middle
    return high


def _bracket(
    share: Callable[[float], float], probability: float, rounding: float, points: tuple[float, float, float]
) -> tuple[float, float]:
    """Two points close to a quantile, one on each side, by the secant method on the logit of the probability.

    Beyond them a bisection need not evaluate the distribution: it is monotonic up to ``rounding``, and differs from the
    probability by more than that at these points.

    Args:
        share: the distribution function.
        probability: of the quantile.
        rounding: twice the bound of the rounding error of ``share`` at the quantile.
        points: below the quantile, the first to be tried, and above the quantile.
    """
    below, x, above = points
    odds = probability / (1 - probability)
    beyond = 4 * rounding / (probability * (1 - probability))  # so that both points come close
    slope, last_x, last_excess = 20 / (above - below), math.nan, math.nan
    for _ in range(_SECANT_STEPS):
        found = share(x)
        if abs(found - probability) <= rounding:
            break
        below, above = (x, above) if found < probability else (below, x)
        if 0 < found < 1:
            excess = math.log(found / (1 - found) / odds)
            if x != last_x and excess != last_excess and not math.isnan(last_x):
                slope = (excess - last_excess) / (x - last_x)
            last_x, last_excess = x, excess
            x -= (excess + math.copysign(beyond, excess)) / slope
        if not below < x < above:
            x = (below + above) / 2
    return below, above


def bootstrap_interval(
    values: NDArray[np.floating], fit: PowerLawFit, *, seed: int = 0, replicates: int = REPLICATES
) -> tuple[float, float]:
    """95 % confidence interval of alpha from resampled spectra, each refitted including xmin.

    1 + (alpha - 1)·exp(±2.02 s), where s is the standard deviation of ln(alpha - 1) over the replicates, extended to
    contain :func:`near_tied_interval`. Quantiles would need many more replicates.

    Source: Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), §13.3; Clauset, Shalizi and Newman (2009),
    §3.3, for resampling with xmin.

    Args:
        values: positive numbers, shape (n,), n ≥ 2.
        fit: the power law fitted to ``values``.
        seed: seed of the resampling.
        replicates: number of resampled spectra, at least 2.

    Returns:
        (low, high), both at least 1.

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
    low, high = near_tied_interval(fit, xmin_candidates(values, fit))
    return min(low, 1 + (fit.alpha - 1) / factor), max(high, 1 + (fit.alpha - 1) * factor)


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
