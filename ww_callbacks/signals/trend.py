"""Trends of a series of measurements, tested against noise that is correlated over time.

Successive alphas of a layer are not independent: the noise of one result lasts for the next ones. A test that ignores
this is wrong far too often. All tests here assume that the correlation falls exponentially with time (a first-order
autoregressive process, in continuous time if the results are unevenly spaced) and average over the unknown
correlation. The error rates are simulated in ``benchmarks/trend_error_rates.py``.

Source of the averages: the marginal posterior of a regression coefficient under the reference prior for coefficients
and scale (Zellner, *An Introduction to Bayesian Inference in Econometrics*, 1971, chapter 4). The correlation time has
a log-uniform prior from 1 % to 300 % of the time that the series spans, whatever the number of values: a finer series
of the same noise gives nearly the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

MIN_SERIES = 8
"""Smallest number of values for a trend."""

MIN_SLOPE = 16
"""Smallest number of values at which the bounds of a slope hold for a correlation of 0.8 between neighbours."""

MAX_HINGES = 16
"""Number of positions at which the end of a fall is tried."""

SURE_FALL = 0.0005
"""Largest probability that there was no fall, if a series is said to have fallen."""

_CORRELATION_TIMES = np.geomspace(0.01, 3.0, 40)
_ROUNDING = 1e-24
_STEPS = 60

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Coefficient:
    """What is known about a regression coefficient.

    It is a mixture of Student's t distributions, one per correlation time of the noise.

    Attributes:
        centers: estimate for each correlation time.
        errors: standard error for each correlation time.
        weights: probability of each correlation time, sum 1.
        dof: degrees of freedom.
        likelihood: logarithm of the likelihood of the model, up to a constant of the series.
    """

    centers: Floats
    errors: Floats
    weights: Floats
    dof: int
    likelihood: float

    @property
    def mean(self) -> float:
        """The estimate."""
        return float(self.weights @ self.centers)

    def probability_below(self, value: float) -> float:
        """Probability that the coefficient is at most ``value``."""
        return float(self.weights @ stdtr(self.dof, (value - self.centers) / self.errors))

    def bound(self, level: float) -> float:
        """The value below which the coefficient is with probability ``level``, such as 0.05 for a lower 95 % bound."""
        low = float((self.centers - 1e3 * self.errors).min())
        high = float((self.centers + 1e3 * self.errors).max())
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.probability_below(middle) < level else (low, middle)
        return low


def fit_slope(values: Sequence[float], at: Sequence[float], times: Sequence[float]) -> Coefficient:
    """The slope of a line through a series.

    Args:
        values: at least 8, finite.
        at: ascending positions of the values; the slope is per unit of these.
        times: ascending times of the values, in any unit; the noise is correlated over these.

    Raises:
        ValueError: there are fewer values, or positions or times are not ascending.

    Example:
        >>> slope = fit_slope([4.0, 3.1, 1.9, 1.0, 0.1, -1.0, -2.1, -2.9], at=range(8), times=range(8))
        >>> round(slope.mean, 2), slope.bound(0.05) > -1.2
        (-0.99, True)
    """
    _check(values, at, times)
    y, x = _centred(values), _centred(at)
    return _coefficients(y, x[None], np.asarray(times, float))[0]


@dataclass(frozen=True, slots=True)
class Fall:
    """How far a series fell before it became flat.

    Attributes:
        position: index of the last value of the fall.
        size: how far the series fell up to there; negative if it rose.
        pvalue: probability that it did not fall.
    """

    position: int
    size: float
    pvalue: float

    @property
    def is_sure(self) -> bool:
        """Whether noise alone is excluded."""
        return self.size > 0 and self.pvalue <= SURE_FALL


def find_fall(values: Sequence[float], at: Sequence[float], times: Sequence[float]) -> Fall:
    """Fit a line that becomes flat at the most likely position; at the last position it still falls.

    Args:
        values: at least 8, finite.
        at: ascending positions of the values; the fall is linear in these.
        times: ascending times of the values.

    Raises:
        ValueError: there are fewer values, or positions or times are not ascending.

    Example:
        >>> fall = find_fall([5.0, 4.5, 4.0, 3.5, 3.0, 3.01, 2.99, 3.0, 3.0, 3.01], at=range(10), times=range(10))
        >>> fall.position, round(fall.size, 1), fall.is_sure
        (4, 2.0, True)
        >>> find_fall([3.0] * 10, at=range(10), times=range(10)).is_sure
        False
    """
    _check(values, at, times)
    y, x = _centred(values), np.asarray(at, float)
    n = len(y)
    positions = np.unique(np.linspace(1, n - 1, min(n - 1, MAX_HINGES)).round().astype(int))
    hinges = np.maximum(x[positions][:, None] - x, 0.0)
    hinges = hinges - hinges.mean(axis=1, keepdims=True)
    found = _coefficients(y, hinges, np.asarray(times, float))
    best = max(range(len(found)), key=lambda i: found[i].likelihood)
    position = int(positions[best])
    size = found[best].mean * float(x[position] - x[0])
    return Fall(position, size, found[best].probability_below(0.0))


def _check(values: Sequence[float], at: Sequence[float], times: Sequence[float]) -> None:
    if len(values) < MIN_SERIES:
        raise ValueError(f"values: expected at least {MIN_SERIES}, got {len(values)}")
    for name, each in (("at", at), ("times", times)):
        if len(each) != len(values) or not all(b > a for a, b in pairwise(each)):
            raise ValueError(f"{name}: expected {len(values)} ascending numbers, got {list(each)}")


def _centred(values: Sequence[float]) -> Floats:
    array = np.asarray(values, float)
    return array - math.fsum(array) / len(array)


def _coefficients(y: Floats, regressors: Floats, times: Floats) -> list[Coefficient]:
    """The coefficient of each regressor, beside a constant; one row per regressor."""
    decay = np.exp(-np.diff(times) / (_CORRELATION_TIMES[:, None] * (times[-1] - times[0])))
    noise = np.sqrt(1 - decay * decay)

    def whitened(series: Floats) -> Floats:
        """One row per correlation time."""
        first = np.broadcast_to(series[..., None, :1], (*series.shape[:-1], len(decay), 1))
        return np.concatenate([first, (series[..., None, 1:] - decay * series[..., None, :-1]) / noise], axis=-1)

    one, target, row = whitened(np.ones(len(y))), whitened(y), whitened(regressors)
    ones, one_target, targets = (one * one).sum(-1), (one * target).sum(-1), (target * target).sum(-1)
    one_row, rows, row_target = (one * row).sum(-1), (row * row).sum(-1), (row * target).sum(-1)
    spread = ones * rows - one_row * one_row
    centers = (ones * row_target - one_row * one_target) / spread
    constant = (rows * one_target - one_row * row_target) / spread
    left = targets - constant * one_target - centers * row_target
    left = np.maximum(left, _ROUNDING * max(float(y @ y), _ROUNDING))
    dof = len(y) - 2
    errors = np.sqrt(left / dof * ones / spread)
    logs = -np.log(noise).sum(-1) - 0.5 * np.log(spread) - 0.5 * dof * np.log(left)
    peaks = logs.max(-1, keepdims=True)
    weights = np.exp(logs - peaks)
    totals = weights.sum(-1, keepdims=True)
    # the spread of a regressor is a matter of its unit, so it does not make a position more likely
    scale = 0.5 * np.log((regressors * regressors).sum(-1))
    likelihoods = (peaks + np.log(totals))[..., 0] + scale
    return [
        Coefficient(centers[i], errors[i], weights[i] / totals[i], dof, float(likelihoods[i]))
        for i in range(len(regressors))
    ]
