"""Histogram of a spectrum on a logarithmic axis."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MAX_BINS = 64
MIN_WIDTH = 1e-12
"""A narrower range, relative to its ends, is widened."""


def log_histogram(
    values: NDArray[np.floating],
    low: float | None = None,
    high: float | None = None,
    bins: int | None = None,
) -> tuple[float, float, tuple[int, ...]]:
    """Count positive eigenvalues in equal-width bins of log10 λ.

    Args:
        values: eigenvalues, shape (n,). Values ≤ 0 or outside the range are not counted.
        low: log10 of the lower end; None for the smallest positive value.
        high: log10 of the upper end; None for the largest value.
        bins: number of bins; None for 2√n, limited to 8 to 64.

    Returns:
        (low, high, counts): log10 of both ends, and the counts.

    Raises:
        ValueError: no value is positive, or a value is not finite.

    Example:
        >>> import numpy as np
        >>> low, high, counts = log_histogram(np.logspace(-2, 1, 300))
        >>> low, high, len(counts), sum(counts)
        (-2.0, 1.0, 34, 300)
    """
    values = np.asarray(values, dtype=np.float64)
    positive = values[values > 0]
    if not np.isfinite(values).all() or len(positive) == 0:
        raise ValueError("values: expected finite numbers, at least one positive")
    logs = np.sort(np.log10(positive))
    low = float(logs[0]) if low is None else low
    high = float(logs[-1]) if high is None else high
    if high - low < MIN_WIDTH * max(1.0, abs(low), abs(high)):  # all values are equal up to rounding
        low, high = low - 0.5, low + 0.5
    bins = bins or min(MAX_BINS, max(8, 2 * math.isqrt(len(positive))))
    cuts = logs.searchsorted(np.linspace(low, high, bins + 1))
    cuts[-1] = logs.searchsorted(high, side="right")
    return low, high, tuple((cuts[1:] - cuts[:-1]).tolist())
