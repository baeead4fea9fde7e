"""Number of directions in a matrix that noise does not explain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.bulk import edge_threshold
from ww_callbacks.spectra.eigen import rank_tolerance

DIRECTION_LEVEL = 0.02
"""Significance level of each direction after the first."""


def num_directions(values: NDArray[np.floating], rows: int, columns: int, level: float = DIRECTION_LEVEL) -> int:
    """Count the eigenvalues of WᵀW above the edge of the noise that is left without them.

    If k directions are taken away, the others are those of an (N - k) x (M - k) noise matrix, whose variance is their
    sum divided by (N - k)(M - k). The count k grows until no more than k eigenvalues exceed
    :func:`ww_callbacks.spectra.edge_threshold` of that matrix. Elements with heavy tails and uneven rows or columns
    also exceed it, so test first whether there is any direction (:func:`ww_callbacks.spectra.null_test`).

    Source: Johnstone, *On the distribution of the largest eigenvalue in principal components analysis* (2001), for
    the edge; the iteration is that of Kritchman and Nadler, *Determining the number of components in a factor model
    from limited noisy data* (2008), with all directions above the edge taken away at once.

    Args:
        values: eigenvalues ≥ 0, shape (M,), in any order.
        rows: rows of the matrix.
        columns: columns of the matrix.
        level: significance level of each direction.

    Raises:
        ValueError: there are not as many eigenvalues as the smaller of ``rows`` and ``columns``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> W = rng.standard_normal((200, 100)) + 0.5 * rng.standard_normal((200, 3)) @ rng.standard_normal((3, 100))
        >>> num_directions(np.linalg.svd(W, compute_uv=False) ** 2, 200, 100)
        3
    """
    large, small = max(rows, columns), min(rows, columns)
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if ordered.shape != (small,):
        raise ValueError(f"values: expected {small} eigenvalues for {rows} x {columns}, got shape {ordered.shape}")
    ordered[ordered <= rank_tolerance(float(ordered[-1]), large, small)] = 0.0
    sums = np.cumsum(ordered)
    count = 0
    while count < small - 1:
        n, m = large - count, small - count
        threshold = edge_threshold(float(sums[m - 1]) / (n * m), n, m, level)
        found = int(np.count_nonzero(ordered > threshold))
        if found <= count:
            break
        count = found
    return count
