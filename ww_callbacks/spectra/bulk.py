"""The Marchenko-Pastur law: where the spectrum of a matrix of independent elements ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.tracy_widom import tracy_widom_isf

LEVEL = 0.001
_BLOCK = 2**16  # elements that are widened at a time


def marchenko_pastur_edge(variance: float, rows: int, columns: int) -> tuple[float, float]:
    """Centre and width of the largest eigenvalue of WᵀW when the elements of W are independent.

    λ₊ = σ²(√n + √m)² and Δ = σ²(√n + √m)(1/√n + 1/√m)^(1/3) with n = rows - ½, m = columns - ½:
    (λ_max - λ₊)/Δ follows the Tracy-Widom law TW₁ with an error of second order.

    Sources: Johnstone, *On the distribution of the largest eigenvalue in principal components analysis* (2001);
    Ma, *Accuracy of the Tracy-Widom limits for the extreme eigenvalues in white Wishart matrices* (2012).

    Args:
        variance: variance σ² of the elements of W.
        rows: number of rows.
        columns: number of columns.

    Returns:
        (λ₊, Δ), in the units of the eigenvalues of WᵀW.

    Raises:
        ValueError: ``variance`` is negative or not finite, or a side is smaller than 1.

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
    """Variance of the elements of a matrix (over all of them, without Bessel's correction).

    Args:
        matrix: any real dtype.
        sum_of_squares: ΣW² where it is known (the sum of the eigenvalues): saves a pass and a copy, as long as the
            mean is not so large that the difference would lose digits.

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
    """The value that the largest eigenvalue of a random matrix passes with probability ``level``.

    λ₊ + q·Δ of :func:`marchenko_pastur_edge` with q the upper ``level`` quantile of TW₁.

    Args:
        variance: variance of the elements.
        rows: number of rows.
        columns: number of columns.
        level: significance.

    Example:
        >>> edge_threshold(1.0, 100, 100) > marchenko_pastur_edge(1.0, 100, 100)[0]
        True
    """
    edge, width = marchenko_pastur_edge(variance, rows, columns)
    return edge + tracy_widom_isf(level) * width


def tail_formed(
    spectra: Sequence[NDArray[np.float64]],
    variances: Sequence[float],
    rows: int,
    columns: int,
    level: float = LEVEL,
) -> bool:
    """Has at least one eigenvalue left the bulk that independent elements of the same variance would make?

    Each kernel position is held against its own element variance at ``level`` divided by the number of positions,
    so that ``level`` counts once for the whole layer (Bonferroni).

    Args:
        spectra: eigenvalues of each kernel position, arrays of shape (M,).
        variances: element variance of each position, in the same scale.
        rows: rows of each matrix.
        columns: columns of each matrix.
        level: significance per layer.

    Example:
        >>> import numpy as np
        >>> W = np.random.default_rng(0).standard_normal((60, 30))
        >>> tail_formed([np.linalg.eigvalsh(W.T @ W)], [float(W.var())], 60, 30)
        False
    """
    each = level / len(spectra)
    return any(
        float(values[-1]) > edge_threshold(variance, rows, columns, each)
        for values, variance in zip(spectra, variances, strict=True)
    )
