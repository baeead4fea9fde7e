"""Eigenvalues of the correlation matrix X = WᵀW of a weight matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.lapack import add_gram, symmetric_eigenvalues

Precision = Literal["float64", "float32"]

MAX_UNRESOLVED = 0.01
"""Share of the eigenvalues that single precision may leave unresolved. Beyond it, double precision is used."""

_BLOCK_BYTES = 2**20
# Outside these ranges the squares of the weights are close to overflow or underflow.
_SAFE_MAGNITUDE = {"float64": (1e-120, 1e120), "float32": (1e-8, 1e8)}


def eigenvalues(
    matrix: NDArray[np.generic], precision: Precision = "float64", *, largest: float | None = None
) -> NDArray[np.float64]:
    """Eigenvalues of X = WᵀW (no 1/N), the squared singular values of W.

    The Gram matrix of the shorter side is accumulated in row blocks, so memory beyond the weights is limited to about
    three M × M float64 matrices. Compared with a singular value decomposition, the relative error in float64 is about
    1e-13 for large eigenvalues; eigenvalues below :func:`rank_tolerance` are noise, see :func:`singular_values`. In
    float32 the absolute error is about :func:`float32_error`, which is relative to the largest eigenvalue.

    Args:
        matrix: weights, shape (rows, columns), any real dtype. Either orientation.
        precision: "float64", or "float32", which takes about two thirds of the time.
        largest: largest absolute element of the layer, if known. It saves a pass over the weights and implies that
            all weights are finite.

    Returns:
        float64, shape (M,) with M = min(rows, columns), ascending, never negative.

    Raises:
        ValueError: ``matrix`` is not two-dimensional, empty, not real or holds NaN or infinity; ``precision`` is
            unknown; the squares of the weights are outside the range of float64.

    Example:
        >>> import numpy as np
        >>> eigenvalues(np.diag([3.0, 1.0, 2.0]))
        array([1., 4., 9.])
    """
    check_precision(precision)
    tall, scale_of = checked(matrix, largest)
    values = scaled_eigenvalues(row_blocks(tall), tall.shape[1], precision, scale_of)
    if not np.isfinite(values[-1]) or (largest is None and scale_of > 0 and values[-1] == 0):
        raise ValueError("matrix: the squares of its elements are outside the range of float64")
    return values


def rank_tolerance(largest: float, rows: int, columns: int) -> float:
    """Bound below which eigenvalues are indistinguishable from zero: λ_max · max(rows, columns) · ε.

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
    return largest * (max(rows, columns) * float(np.finfo(np.float64).eps))  # in this order no product overflows


def singular_values(matrices: NDArray[Any]) -> NDArray[np.float64]:
    """Singular values of each matrix of a layer, ascending.

    Their squares resolve small eigenvalues that the Gram matrix loses: its rounding error is relative to λ_max, which
    hides singular values below about 1e-7 of the largest. They take about twice the time.

    Args:
        matrices: weights, shape (positions, rows, columns), finite.

    Returns:
        float64, shape (positions, M).

    Example:
        >>> import numpy as np
        >>> singular_values(np.diag([1.0, 1e-10, 0.0])[None])
        array([[0.e+00, 1.e-10, 1.e+00]])
    """
    return np.stack([np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[::-1] for matrix in matrices])


def numerical_rank(singular: NDArray[np.float64], rows: int, columns: int) -> int:
    """Total rank of all matrices of a layer: #{s > s_max · max(rows, columns) · ε}.

    Args:
        singular: singular values of all matrices, any shape.
        rows: number of rows of each matrix.
        columns: number of columns of each matrix.

    Example:
        >>> import numpy as np
        >>> numerical_rank(singular_values(np.diag([1.0, 1e-10, 0.0])[None]), 3, 3)
        2
    """
    bound = singular.max() * max(rows, columns) * float(np.finfo(np.float64).eps)
    return int(np.count_nonzero(singular > bound))


def storage_error(largest: float, rows: int, columns: int, precision: float) -> float:
    """Largest eigenvalue of the rounding errors of stored weights: (√rows + √columns)² (w · ε/2)².

    Independent errors of at most w · ε/2 per element have no larger eigenvalue, up to the fluctuation of the
    Marchenko-Pastur edge. Smaller eigenvalues of the weights say nothing about the weights before they were rounded.

    Args:
        largest: w, the largest absolute element.
        rows: number of rows of W.
        columns: number of columns of W.
        precision: ε of the stored dtype.

    Example:
        >>> storage_error(1.0, 1000, 100, 2.0**-23) < 1e-10
        True
    """
    norm = (math.sqrt(rows) + math.sqrt(columns)) * largest * precision / 2
    return norm * norm


def float32_error(largest: float, rows: int, columns: int) -> float:
    """Error of an eigenvalue in single precision: 2 · λ_max · √max(rows, columns) · ε₃₂.

    The rounding error of a sum of n products grows as √n if the errors are independent (Higham and Mary, *A new
    approach to probabilistic rounding error analysis*, 2019).

    Args:
        largest: λ_max, the largest eigenvalue of X = WᵀW.
        rows: number of rows of W.
        columns: number of columns of W.

    Example:
        >>> float32_error(1.0, 1000, 100) < 1e-5
        True
    """
    return largest * (2 * math.sqrt(max(rows, columns)) * float(np.finfo(np.float32).eps))


def check_precision(precision: str) -> None:
    """Check that ``precision`` is "float64" or "float32".

    Raises:
        ValueError: it is neither.
    """
    if precision not in ("float64", "float32"):
        raise ValueError(f'precision: expected "float64" or "float32", got {precision!r}')


def scaled_eigenvalues(
    blocks: Iterable[NDArray[np.generic]], columns: int, precision: Precision, largest: float
) -> NDArray[np.float64]:
    """Eigenvalues of Σ BᵀB over blocks of rows with absolute elements up to ``largest``; inf on overflow."""
    scale = power_of_two_scale(largest, precision)
    values = symmetric_eigenvalues(gram(blocks, columns, precision, scale))
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(np.maximum(values.astype(np.float64, copy=False), 0.0), 2 * scale)


def checked(matrix: NDArray[np.generic], largest: float | None = None) -> tuple[NDArray[np.generic], float]:
    """The contiguous matrix with rows ≥ columns, and its largest absolute element, computed if not given.

    Raises:
        ValueError: not two-dimensional, empty, not real or not finite.
    """
    matrix = contiguous(np.asarray(matrix))
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"matrix: expected a non-empty two-dimensional array, got shape {matrix.shape}")
    if matrix.dtype.kind not in "fiub":
        raise ValueError(f"matrix: expected real numbers, got dtype {matrix.dtype}")
    if largest is None:
        largest = magnitude(matrix)
    if not np.isfinite(largest):
        raise ValueError("matrix: holds NaN or infinite values")
    return (matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T), largest


def contiguous(matrix: NDArray[np.generic]) -> NDArray[np.generic]:
    """The matrix, copied if it is not contiguous, because the matrix of a kernel position is read several times."""
    return matrix if matrix.flags.forc else matrix.copy()


def magnitude(array: NDArray[np.generic]) -> float:
    """The largest absolute element; not finite if any element is not.

    Example:
        >>> import numpy as np
        >>> magnitude(np.array([1.0, -3.0]))
        3.0
    """
    with np.errstate(invalid="ignore"):
        largest: float = np.maximum(abs(float(array.max())), abs(float(array.min()))).item()
    return largest


def power_of_two_scale(largest: float, precision: Precision) -> int:
    """Exponent e such that the squares of W·2⁻ᵉ neither overflow nor underflow; 0 for ordinary weights."""
    low, high = _SAFE_MAGNITUDE[precision]
    return 0 if largest == 0.0 or low < largest < high else int(np.frexp(largest)[1])


def row_blocks(tall: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    """Blocks of rows of a matrix: one megabyte each, or half an M × M matrix if that is larger."""
    rows = block_rows(*tall.shape)
    return (tall[start : start + rows] for start in range(0, len(tall), rows))


def block_rows(rows: int, columns: int) -> int:
    """Number of rows per block."""
    return min(rows, max(columns // 2, _BLOCK_BYTES // (8 * columns), 1))


def gram(
    blocks: Iterable[NDArray[np.generic]], columns: int, precision: Precision, scale: int = 0
) -> NDArray[np.floating]:
    """The upper triangle of Σ BᵀB over blocks of rows, after multiplying each block by 2⁻ˢᶜᵃˡᵉ."""
    total: NDArray[np.floating] = np.zeros((columns, columns), precision)
    for block in blocks:
        add_gram(total, _scaled(block, precision, scale))
    return total


def _scaled(rows: NDArray[np.generic], precision: Precision, scale: int) -> NDArray[np.floating]:
    if not scale:
        return rows.astype(precision, copy=False)
    wide = rows if rows.dtype.kind == "f" else rows.astype(np.float64)
    wide = wide.astype(np.promote_types(wide.dtype, precision), copy=False)
    with np.errstate(under="ignore"):
        scaled: NDArray[np.floating] = np.ldexp(wide, -scale).astype(precision)
    return scaled
