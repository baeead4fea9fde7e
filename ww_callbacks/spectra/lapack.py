"""Gram products and eigenvalues of symmetric matrices, with the fastest routine for their size and precision.

numpy mirrors every Gram product, copies every matrix before it computes eigenvalues, and has neither single precision
nor the two-stage reduction. scipy's wrappers hold the GIL during the whole call. Therefore the routines are called
directly in the BLAS and LAPACK bundled with scipy. If they are not found, numpy is used: the result is the same, the
computation a little slower.
"""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import _flapack

_TWO_STAGE_SIZE = 1536
"""From this size on the two-stage reduction is faster than the one-stage reduction, which is memory-bound."""
_WIDE_BAND_SIZE = 3072
"""From this size on a band of 64 is faster in the two-stage reduction than LAPACK's 32, which leaves less to BLAS."""
_BAND = 64
_PANEL = 16
"""Panel width of the one-stage reduction: 5 to 20 % faster than LAPACK's default of 32."""
_TRIANGLE = b"L"
"""The lower triangle in Fortran order is the upper triangle of our C-ordered arrays."""
_STRINGS = (ctypes.c_size_t(1), ctypes.c_size_t(1))
"""Hidden Fortran arguments: the lengths of the two strings."""
_STAGES = ("sytrd_sy2sb", "sytrd_sb2st", "sterf")
"""The steps of the two-stage routine: to a band, from the band to a tridiagonal matrix, and its eigenvalues."""


def add_gram(total: NDArray[np.floating], block: NDArray[np.floating]) -> None:
    """Add BᵀB to the upper triangle of ``total``; the lower triangle is undefined afterwards.

    Args:
        total: float32 or float64, C-contiguous, shape (M, M).
        block: B, same dtype, shape (rows, M).

    Example:
        >>> import numpy as np
        >>> total = np.zeros((2, 2))
        >>> add_gram(total, np.array([[1.0, 2.0], [0.0, 1.0]]))
        >>> np.triu(total)
        array([[1., 2.],
               [0., 5.]])
    """
    routine = _routine(_letter(total) + "syrk")
    if routine is None:
        total += block.T @ block
        return
    if not (block.flags.forc and block.flags.aligned):
        block = block.copy()
    transpose, stride = (b"N", len(total)) if block.flags.c_contiguous else (b"T", len(block))
    number = ctypes.c_float if total.dtype == np.float32 else ctypes.c_double
    columns, rows, leading = (ctypes.byref(ctypes.c_int(value)) for value in (len(total), len(block), stride))
    one, source, target = ctypes.byref(number(1)), *(ctypes.c_void_p(array.ctypes.data) for array in (block, total))
    routine(_TRIANGLE, transpose, columns, rows, one, source, leading, one, target, columns, *_STRINGS)


def symmetric_eigenvalues(matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    """All eigenvalues of a symmetric matrix. Only the upper triangle is read. The matrix is overwritten.

    Args:
        matrix: float32 or float64, C-contiguous, shape (M, M); undefined afterwards.

    Returns:
        Shape (M,), ascending, of the same dtype (float64 if single precision is not available).

    Raises:
        numpy.linalg.LinAlgError: the iteration did not converge.

    Example:
        >>> import numpy as np
        >>> symmetric_eigenvalues(np.array([[2.0, 1.0], [1.0, 2.0]]))
        array([1., 3.])
    """
    stages = [_letter(matrix) + name for name in _STAGES] if len(matrix) >= _WIDE_BAND_SIZE else []
    if stages and _needs_no_scaling(matrix) and None not in map(_routine, stages):
        return _wide_band_eigenvalues(matrix, *stages)
    for name in ["syevd_2stage", "syevd"] if len(matrix) >= _TWO_STAGE_SIZE else ["syevd"]:
        if _routine(_letter(matrix) + name) is not None:
            return _eigenvalues(_letter(matrix) + name, matrix)
    return np.linalg.eigvalsh(matrix.astype(np.float64, copy=False), UPLO="U")


def _letter(matrix: NDArray[np.floating]) -> str:
    return "s" if matrix.dtype == np.float32 else "d"


@lru_cache(maxsize=16)
def _routine(name: str) -> Any:
    """The function pointer, or None if not found. It is looked up through scipy's extension module."""
    library = ctypes.CDLL(_flapack.__file__)
    for symbol in (f"scipy_{name}_", f"{name}_"):
        try:
            routine = getattr(library, symbol)
        except AttributeError:
            continue
        routine.restype = None
        return routine
    return None


def _eigenvalues(name: str, matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    values = np.empty(len(matrix), matrix.dtype)
    sizes = _workspace(name, len(matrix))
    work, integers = np.empty(sizes[0], matrix.dtype), np.empty(sizes[1], np.int32)
    if _syevd(name, len(matrix), (matrix, values, work, integers), sizes) != 0:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")
    return values


def _needs_no_scaling(matrix: NDArray[np.floating]) -> bool:
    """Whether the squares of the elements stay in range. ``xSYEVD`` scales other matrices, its steps do not."""
    limits = np.finfo(matrix.dtype)
    low = math.sqrt(limits.tiny / limits.eps)
    return bool(low < max(matrix.max(), -matrix.min()) < 1 / low)


def _wide_band_eigenvalues(
    matrix: NDArray[np.floating], to_band: str, from_band: str, of_tridiagonal: str
) -> NDArray[np.floating]:
    """The two-stage reduction with a band of our choice."""
    size = len(matrix)
    arguments: tuple[Any, ...]
    band, values, below, scales = (np.empty(n, matrix.dtype) for n in (size * (_BAND + 1), size, size, size))
    order, width, leading = _pointers(size, _BAND, _BAND + 1)
    arguments = _TRIANGLE, order, width, _data(matrix), order, _data(band), leading, _data(scales)
    _staged(to_band, arguments, 1, matrix.dtype)
    arguments = b"Y", b"N", _TRIANGLE, order, width, _data(band), leading, _data(values), _data(below)
    _staged(from_band, arguments, 2, matrix.dtype)
    failure = ctypes.c_int(0)
    _routine(of_tridiagonal)(order, _data(values), _data(below), ctypes.byref(failure))
    if failure.value != 0:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")
    return values


def _staged(name: str, arguments: tuple[Any, ...], workspaces: int, dtype: np.dtype[Any]) -> None:
    """Call a routine with workspaces of the sizes that it asks for."""
    sizes = [-1] * workspaces
    for _ in range(2):
        work = [np.empty(max(size, 1), dtype) for size in sizes]
        pairs = [each for array, length in zip(work, _pointers(*sizes), strict=True) for each in (_data(array), length)]
        _routine(name)(*arguments, *pairs, ctypes.byref(ctypes.c_int(0)), *_STRINGS, _STRINGS[0])
        sizes = [int(array[0]) for array in work]


def _pointers(*numbers: int) -> list[Any]:
    return [ctypes.byref(ctypes.c_int(number)) for number in numbers]


def _data(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@lru_cache(maxsize=256)
def _workspace(name: str, size: int) -> tuple[int, int]:
    """Sizes of the floating-point and integer workspaces. The routine derives its panel width from them."""
    if not name.endswith("2stage"):
        return (2 + _PANEL) * size + 1, 1
    work, integers = np.zeros(1, np.float32 if name[0] == "s" else np.float64), np.zeros(1, np.int32)
    _syevd(name, size, (work, work, work, integers), (-1, -1))
    return int(work[0]), int(integers[0])


def _syevd(name: str, size: int, arrays: tuple[NDArray[Any], ...], sizes: tuple[int, int]) -> int:
    """Call ``xSYEVD(jobz="N", …)`` and return ``info``."""
    order, info = ctypes.c_int(size), ctypes.c_int(0)
    matrix, values, work, integers = (ctypes.c_void_p(array.ctypes.data) for array in arrays)
    lengths = [ctypes.byref(ctypes.c_int(length)) for length in sizes]
    n, failure = ctypes.byref(order), ctypes.byref(info)
    _routine(name)(b"N", _TRIANGLE, n, matrix, n, values, work, lengths[0], integers, lengths[1], failure, *_STRINGS)
    return info.value
