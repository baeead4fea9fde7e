"""Slopes and change points of a series of measurements, tested against its scatter over time.

A single value says nothing about a trend, and the interval of a single alpha overstates the scatter of successive
values (the eigenvalues of a matrix repel each other). All tests here therefore use the residuals of the series.
The false-alarm rate of each test is simulated in ``benchmarks/trend_error_rates.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

MIN_LINE = 4
"""Least number of values for a line with residual scatter."""

MIN_HINGE = 8
"""Least number of values for a change point."""

MAX_HINGES = 64
"""Number of positions at which a change point is tried."""

GROUPS = 12
"""Number of groups of values for :func:`middle_slope`."""

FALL_QUANTILES: dict[int, float] = {8: 27.6, 10: 17.5, 15: 11.7, 20: 9.86, 30: 8.5, 50: 7.84, 100: 7.49, 200: 7.37}
"""Number of values → 99.9 % quantile of :attr:`ChangePoint.statistic` for independent noise."""


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line through values.

    Attributes:
        slope: change per unit of the position.
        slope_error: standard error of the slope, from the residuals.
        size: number of values.
    """

    slope: float
    slope_error: float
    size: int

    def slope_bound(self, level: float) -> float:
        """Lower confidence bound of the slope at probability ``level`` (Student's t, size - 2 degrees of freedom).

        Args:
            level: probability that the true slope is lower, such as 0.05.
        """
        return self.slope + float(stdtrit(self.size - 2, level)) * self.slope_error


def fit_line(values: Sequence[float], at: Sequence[float] | None = None) -> Line:
    """The least-squares line through values.

    Args:
        values: at least 4, finite.
        at: ascending positions of the values; None for 0, 1, 2, …

    Raises:
        ValueError: there are fewer values, or all positions are equal.

    Example:
        >>> line = fit_line([4.0, 3.0, 2.0, 1.0])
        >>> line.slope, line.slope_error
        (-1.0, 0.0)
    """
    if len(values) < MIN_LINE:
        raise ValueError(f"values: expected at least {MIN_LINE}, got {len(values)}")
    y = np.asarray(values, float) - math.fsum(values) / len(values)
    x = np.arange(len(y), dtype=float) if at is None else np.asarray(at, float)
    x = x - x.mean()
    spread = float(x @ x)
    if not spread > 0:
        raise ValueError(f"at: expected different places, got {at}")
    slope = float(x @ y) / spread
    residuals = y - slope * x
    return Line(slope, math.sqrt(float(residuals @ residuals) / (len(y) - 2) / spread), len(y))


def middle_slope(values: Sequence[float], at: Sequence[float]) -> float:
    """The median of the slopes between neighbouring values, which is robust against a few jumps.

    The choice of xmin makes alpha jump occasionally, up or down; between jumps it moves smoothly. More than 12 values
    are reduced to the medians of 12 groups, because otherwise the scatter of neighbouring values would dominate.

    Args:
        values: at least 2, finite.
        at: ascending positions of the values.

    Example:
        >>> middle_slope([3.0, 2.5, 2.0, 2.75, 2.25], at=[0, 1, 2, 3, 4])
        -0.5
    """
    if len(values) > GROUPS:
        values, at = ([float(np.median(group)) for group in np.array_split(each, GROUPS)] for each in (values, at))
    return float(np.median(np.diff(values) / np.diff(at)))


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """The position at which a falling series became flat.

    Attributes:
        position: index of the last value of the fall.
        fall: how far the series fell up to there; negative if it rose.
        statistic: squared fall divided by the residual scatter (an F statistic with 2 and n - 3 degrees of freedom,
            maximised over all positions).
        is_fall: whether it fell, by more than independent noise does in 99.9 % of all series.
    """

    position: int
    fall: float
    statistic: float
    is_fall: bool


def find_change(values: Sequence[float]) -> ChangePoint:
    """Compare a constant with a line that becomes flat at the best position; at the last position it still falls.

    Args:
        values: at least 8, finite.

    Raises:
        ValueError: there are fewer values.

    Example:
        >>> change = find_change([5.0, 4.5, 4.0, 3.5, 3.0, 3.01, 2.99, 3.0, 3.0, 3.01])
        >>> change.position, round(change.fall, 1), change.is_fall
        (4, 2.0, True)
        >>> find_change([3.0] * 10).is_fall
        False
    """
    if len(values) < MIN_HINGE:
        raise ValueError(f"values: expected at least {MIN_HINGE}, got {len(values)}")
    y = np.asarray(values, float)
    n = len(y)
    centred = y - y.mean()
    total = float(centred @ centred)
    positions = np.unique(np.linspace(1, n - 1, min(n - 1, MAX_HINGES)).round().astype(int))
    hinges = _hinges(n, positions)
    slopes = hinges @ centred / (hinges * hinges).sum(axis=1)
    explained = slopes * (hinges @ centred)
    best = int(np.argmax(explained))
    position, slope = int(positions[best]), float(slopes[best])
    left = max(total - float(explained[best]), 0.0)
    statistic = _ratio(float(explained[best]) / 2, left / (n - 3), float(y @ y))
    return ChangePoint(position, slope * position, statistic, slope > 0 and statistic > fall_quantile(n))


def fall_quantile(size: int) -> float:
    """99.9 % quantile of the statistic of a change point for ``size`` independent values.

    Example:
        >>> fall_quantile(20) < fall_quantile(12) < fall_quantile(8)
        True
    """
    return float(np.interp(math.log(size), np.log(list(FALL_QUANTILES)), list(FALL_QUANTILES.values())))


def _hinges(size: int, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """One centred row per position: falls by 1 per value down to 0 at the position, then is constant."""
    rows = np.maximum(positions[:, None] - np.arange(size), 0).astype(float)
    centred: NDArray[np.float64] = rows - rows.mean(axis=1, keepdims=True)
    return centred


def _ratio(explained: float, residual: float, scale: float) -> float:
    """The ratio of two differences; differences within the rounding error of the values count as 0."""
    rounding = 1e-24 * scale
    if explained <= rounding:
        return 0.0
    return explained / max(residual, rounding)
