"""Number of directions in a matrix that noise does not explain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.bulk import edge_threshold

DIRECTION_LEVEL = 0.02
"""Significance level of the largest direction."""

_ROUNDS = 3  # the first, and two with the directions taken away


def num_directions(values: NDArray[np.floating], rows: int, columns: int, level: float = DIRECTION_LEVEL) -> int:
    """Count the eigenvalues of WᵀW above the edge of a noise matrix with the same sum of squares.

    The edge is :func:`ww_callbacks.spectra.edge_threshold` for elements with the mean square of those of W. The
    directions themselves raise it. So the k directions that were found are taken away, and the rest is compared with an
    (N - k) x (M - k) noise matrix, up to twice, as long as this adds at most a fifth of k, or one. More new directions
    would mean that the rest is not noise: then the number of all directions is not defined, as in a sum of gradients,
    and those count that stand out from the whole matrix.

    Elements with heavy tails and uneven rows or columns also exceed the edge, so test first whether there is any
    direction (:func:`ww_callbacks.spectra.null_test`).

    Source: Johnstone, *On the distribution of the largest eigenvalue in principal components analysis* (2001), for
    the edge; taking directions away is the idea of Kritchman and Nadler, *Determining the number of components in a
    factor model from limited noisy data* (2008).

    Args:
        values: eigenvalues ≥ 0, shape (M,), in any order.
        rows: rows of the matrix.
        columns: columns of the matrix.
        level: probability that noise alone exceeds the edge.

    Raises:
        ValueError: there are not as many eigenvalues as the smaller of ``rows`` and ``columns``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> W = rng.standard_normal((200, 100)) + 0.5 * rng.standard_normal((200, 3)) @ rng.standard_normal((3, 100))
        >>> num_directions(np.linalg.svd(W, compute_uv=False) ** 2, 200, 100)
        3
    """
    small = min(rows, columns)
    ordered = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    if ordered.shape != (small,):
        raise ValueError(f"values: expected {small} eigenvalues for {rows} x {columns}, got shape {ordered.shape}")
    return num_leading(ordered, float(ordered.sum()), rows, columns, level)


def num_leading(top: NDArray[np.float64], total: float, rows: int, columns: int, level: float) -> int:
    """:func:`num_directions` if only the largest eigenvalues are known; at most as many as are given.

    Args:
        top: the largest eigenvalues, descending.
        total: sum of all eigenvalues.
        rows: rows of the matrix.
        columns: columns of the matrix.
        level: probability that noise alone exceeds the edge.

    Example:
        >>> num_leading(np.array([900.0, 700.0, 60.0]), 20_000.0, 200, 100, 0.02)
        2
    """
    large, small = max(rows, columns), min(rows, columns)
    count = 0
    for _ in range(_ROUNDS):
        n, m = large - count, small - count
        if m < 2:
            break
        rest = max(total - float(top[:count].sum()), 0.0)
        found = int(np.count_nonzero(top > edge_threshold(rest / (n * m), n, m, level)))
        if count and found - count > max(1, count // 5):
            break
        count = max(count, found)
    return count
