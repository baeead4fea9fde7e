"""Hill estimate from square windows, which does not depend on the aspect ratio of a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.eigen import checked, eigenvalues
from ww_callbacks.spectra.power_law import hill_alpha


def farms_alpha(matrices: NDArray[Any], *, seed: int = 0) -> float:
    """Hill estimate from the pooled eigenvalues of square windows (FARMS).

    A longer matrix of the same population has a narrower spectrum, so :func:`ww_callbacks.spectra.hill_alpha` grows
    with N/M, and layers of different shapes cannot be compared. Here the N rows are permuted and cut into ⌈N/M⌉ windows
    of M x M with equally spaced starts, the last of which ends with the last row. The eigenvalues of all windows and
    kernel positions are pooled, and the estimate from the k values of their upper half is
    1 + (k - 1) / Σ ln(x_j/x_i). (With k instead of k - 1, as in ``hill_alpha``, one small window would give 3 % more
    than many.) Gaussian matrices of any shape give about 2.1.

    Source: Hu et al., *Eigenspectrum Analysis of Neural Networks without Aspect Ratio Bias* (2025, arXiv 2506.06280).
    The permutation is our addition: neighbouring rows can belong to the same head or gate.

    Args:
        matrices: weights, shape (rows, columns) or (positions, rows, columns), any real dtype. N is the larger side.
        seed: seed of the permutation.

    Raises:
        ValueError: a matrix is empty, not real or not finite, or the upper half of the eigenvalues is constant.

    Example:
        >>> import numpy as np
        >>> from ww_callbacks.spectra import eigenvalues, hill_alpha
        >>> rng = np.random.default_rng(0)
        >>> square, long = rng.standard_normal((200, 200)), rng.standard_normal((2000, 200))
        >>> [round(hill_alpha(eigenvalues(W)), 1) for W in (square, long)]
        [2.2, 5.0]
        >>> [round(farms_alpha(W), 2) for W in (square, long)]
        [2.16, 2.12]
    """
    stack = np.asarray(matrices)
    windows = _windows(stack[None] if stack.ndim == 2 else stack, seed)
    return pooled_alpha([eigenvalues(window) for window in windows])


def pooled_alpha(spectra: Sequence[NDArray[np.float64]]) -> float:
    """The estimate of :func:`farms_alpha` from the eigenvalues of its windows.

    The only window of a square matrix is the matrix with other rows first, so it has the same eigenvalues.

    Args:
        spectra: eigenvalues of each window of each kernel position.

    Raises:
        ValueError: the upper half of the eigenvalues is constant.

    Example:
        >>> W = np.random.default_rng(0).standard_normal((100, 100))
        >>> bool(np.isclose(pooled_alpha([eigenvalues(W)]), farms_alpha(W)))
        True
    """
    values = np.concatenate(spectra)
    upper = len(values) - len(values) // 2
    smallest = float(values[values > 0].min(initial=np.inf))  # those below the rounding error are 0
    return 1 + (hill_alpha(np.maximum(values, smallest)) - 1) * (upper - 1) / upper


def _windows(stack: NDArray[Any], seed: int) -> Iterator[NDArray[Any]]:
    for position, matrix in enumerate(stack):
        tall, _ = checked(matrix)
        n, m = tall.shape
        order = np.random.default_rng([seed, n, m, position]).permutation(n)
        for start in np.linspace(0, n - m, math.ceil(n / m)).round().astype(int):
            yield tall[order[start : start + m]]
