"""Upper edge of the Marchenko-Pastur law, the spectrum of a matrix with independent elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.tracy_widom import tracy_widom_isf

LEVEL = 0.001
_BLOCK = 2**16  # elements converted to float64 at a time


def marchenko_pastur_edge(variance: float, rows: int, columns: int) -> tuple[float, float]:
    """Location and scale of the largest eigenvalue of WᵀW if the elements of W are independent.

    λ₊ = σ²(√n + √m)² and Δ = σ²(√n + √m)(1/√n + 1/√m)^(1/3) with n = rows - ½, m = columns - ½.
    (λ_max - λ₊)/Δ follows the Tracy-Widom law TW₁ up to a second-order error.

    Sources: Johnstone, *On the distribution of the largest eigenvalue in principal components analysis* (2001);
    Ma, *Accuracy of the Tracy-Widom limits for the extreme eigenvalues in white Wishart matrices* (2012).

    Args:
        variance: variance σ² of the elements of W.
        rows: number of rows.
        columns: number of columns.

    Returns:
        (λ₊, Δ), in the units of the eigenvalues of WᵀW.

    Raises:
        ValueError: ``variance`` is negative or not finite, or ``rows`` or ``columns`` is smaller than 1.

    Example:
        >>> edge, width = marchenko_pastur_edge(1.0, 1000, 1000)
        >>> round(edge), round(width, 1)
        (3998, 25.2)
    """
    if not (math.isfinite(variance) and variance >= 0):
        raise ValueError(f"variance: expected a finite number >= 0, got {variance}")
    if min(rows, columns) < 1:
        raise ValueError(f"rows, columns: expected at least 1, got {rows} x {columns}")
    n, m = math.sqrt(rows - 0.5), math.sqrt(columns - 0.5)
    return variance * (n + m) ** 2, variance * (n + m) * (1 / n + 1 / m) ** (1 / 3)


def element_variance(matrix: NDArray[Any], sum_of_squares: float | None = None) -> float:
    """Variance of all elements of a matrix, without Bessel's correction.

    Args:
        matrix: array of any real dtype.
        sum_of_squares: ΣW² if known (the sum of the eigenvalues). It saves a pass and a copy. It is ignored if the
            mean is so large that the difference would lose digits.

    Example:
        >>> import numpy as np
        >>> element_variance(np.array([[1.0, 3.0]]))
        1.0
    """
    mean = float(np.mean(matrix, dtype=np.float64))
    if sum_of_squares is not None and mean**2 <= 1e-3 * sum_of_squares / matrix.size:
        return sum_of_squares / matrix.size - mean**2
    rows = np.atleast_2d(matrix)
    step = max(1, _BLOCK * len(rows) // matrix.size)
    blocks = (rows[start : start + step] for start in range(0, len(rows), step))
    squares = (float(np.square(np.subtract(block, mean, dtype=np.float64)).sum()) for block in blocks)
    return math.fsum(squares) / matrix.size


def edge_threshold(variance: float, rows: int, columns: int, level: float = LEVEL) -> float:
    """The value that the largest eigenvalue of a random matrix exceeds with probability ``level``.

    λ₊ + q·Δ from :func:`marchenko_pastur_edge`, where q is the upper ``level`` quantile of TW₁.

    Args:
        variance: variance of the elements.
        rows: number of rows.
        columns: number of columns.
        level: significance level.

    Example:
        >>> edge_threshold(1.0, 100, 100) > marchenko_pastur_edge(1.0, 100, 100)[0]
        True
    """
    edge, width = marchenko_pastur_edge(variance, rows, columns)
    return edge + tracy_widom_isf(level) * width
