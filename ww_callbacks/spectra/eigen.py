"""Eigenvalues of the correlation matrix X = WᵀW of a weight matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

_BLOCK_BYTES = 32 * 2**20
# Outside of this range squares of float64 weights come near overflow or underflow.
_SAFE_MAGNITUDE = (1e-120, 1e120)


def eigenvalues(matrix: NDArray[np.generic]) -> NDArray[np.float64]:
    """Eigenvalues of X = WᵀW (no 1/N), the squared singular values of W.

    The float64 Gram matrix of the shorter side is accumulated in row blocks, so that beside the weights no
    more than about three M × M float64 matrices are alive. Against a singular value decomposition the relative
    error is about 1e-13 for large eigenvalues; those below ``rank_tolerance`` are noise.

    Args:
        matrix: weights, shape (rows, columns), any real dtype. Either orientation.

    Returns:
        float64, shape (M,) with M = min(rows, columns), ascending, never negative.

    Raises:
        ValueError: ``matrix`` is not two-dimensional, empty, not real or holds NaN or infinity.

    Example:
        >>> import numpy as np
        >>> eigenvalues(np.diag([3.0, 1.0, 2.0]))
        array([1., 4., 9.])
    """
    tall = _checked(matrix)
    scale = _power_of_two_scale(tall)
    values = np.linalg.eigvalsh(_gram(tall, scale))
    result: NDArray[np.float64] = np.ldexp(np.maximum(values, 0.0), 2 * scale)
    return result


def rank_tolerance(largest: float, rows: int, columns: int) -> float:
    """Eigenvalues up to this bound cannot be told from zero: λ_max · max(rows, columns) · ε.

    This is the rounding error of the Gram matrix (Higham, *Accuracy and Stability of Numerical Algorithms*,
    §3.5). It is relative to the largest eigenvalue, so it does not depend on the scale of the weights.

    Args:
        largest: λ_max, the largest eigenvalue of X = WᵀW.
        rows: number of rows of W.
        columns: number of columns of W.

    Returns:
        The bound, in the units of ``largest``.

    Example:
        >>> rank_tolerance(1.0, 1000, 100) < 1e-12
        True
    """
    return largest * max(rows, columns) * float(np.finfo(np.float64).eps)


def _checked(matrix: NDArray[np.generic]) -> NDArray[np.generic]:
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"matrix: expected a non-empty two-dimensional array, got shape {matrix.shape}")
    if matrix.dtype.kind not in "fiub":
        raise ValueError(f"matrix: expected real numbers, got dtype {matrix.dtype}")
    if not np.isfinite(matrix).all():
        raise ValueError("matrix: holds NaN or infinite values")
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T


def _power_of_two_scale(matrix: NDArray[np.generic]) -> int:
    """Exponent e such that W·2⁻ᵉ has safe squares; 0 for all ordinary weights."""
    largest = float(max(abs(float(matrix.max())), abs(float(matrix.min()))))
    if largest == 0.0 or _SAFE_MAGNITUDE[0] < largest < _SAFE_MAGNITUDE[1]:
        return 0
    return int(np.frexp(largest)[1])


def _gram(tall: NDArray[np.generic], scale: int) -> NDArray[np.float64]:
    rows, columns = tall.shape
    block_rows = max(columns, _BLOCK_BYTES // (8 * columns))
    gram: NDArray[np.float64] | None = None
    for start in range(0, rows, block_rows):
        block = tall[start : start + block_rows].astype(np.float64)
        if scale:
            block = np.ldexp(block, -scale)
        product = block.T @ block
        gram = product if gram is None else np.add(gram, product, out=gram)
    assert gram is not None
    return gram
