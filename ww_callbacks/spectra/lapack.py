"""Eigenvalues of a symmetric matrix by the LAPACK routine that is fastest for its size and precision.

numpy has neither single precision nor the two-stage reduction, scipy's wrappers hold the interpreter's lock during the
whole call. The routines are therefore called in the LAPACK that scipy brings; where they are not found, numpy does
the work, with the same result and some more time.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import _flapack

_TWO_STAGE_SIZE = 3000
"""From this size on the reduction in two stages beats the one that memory bandwidth limits."""


def symmetric_eigenvalues(matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    """All eigenvalues of a symmetric matrix. The matrix is overwritten.

    Args:
        matrix: float32 or float64, C-contiguous, shape (M, M); what it holds afterwards is undefined.

    Returns:
        Shape (M,), ascending, of the same dtype (float64 where single precision is not available).

    Raises:
        numpy.linalg.LinAlgError: the iteration did not converge.

    Example:
        >>> import numpy as np
        >>> symmetric_eigenvalues(np.array([[2.0, 1.0], [1.0, 2.0]]))
        array([1., 3.])
    """
    size = len(matrix)
    names = ["syevd_2stage"] if size >= _TWO_STAGE_SIZE else []
    if matrix.dtype == np.float32:
        names.append("syevd")
    for name in names:
        routine = _routine(f"{'s' if matrix.dtype == np.float32 else 'd'}{name}")
        if routine is not None:
            return _call(routine, matrix)
    return np.linalg.eigvalsh(matrix.astype(np.float64, copy=False))


@lru_cache(maxsize=8)
def _routine(name: str) -> Any:
    """The function pointer; looked up through the dependencies of scipy's own extension module."""
    library = ctypes.CDLL(_flapack.__file__)
    for symbol in (f"scipy_{name}_", f"{name}_"):
        try:
            routine = getattr(library, symbol)
        except AttributeError:
            continue
        routine.restype = None
        return routine
    return None


def _call(routine: Any, matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    size = len(matrix)
    values = np.empty(size, matrix.dtype)
    work, integers = np.zeros(1, matrix.dtype), np.zeros(1, np.int32)
    _raw(routine, matrix, values, work, integers, query=True)
    work, integers = np.empty(int(work[0]), matrix.dtype), np.empty(int(integers[0]), np.int32)
    if _raw(routine, matrix, values, work, integers, query=False) != 0:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")
    return values


def _raw(
    routine: Any,
    matrix: NDArray[np.floating],
    values: NDArray[np.floating],
    work: NDArray[np.floating],
    integers: NDArray[np.int32],
    query: bool,
) -> int:
    """``xSYEVD(jobz="N", uplo="L", …)`` with the hidden lengths of the two strings; returns ``info``."""
    size, info = ctypes.c_int(len(matrix)), ctypes.c_int(0)
    lengths = [ctypes.c_int(-1 if query else len(array)) for array in (work, integers)]
    pointer = [ctypes.c_void_p(array.ctypes.data) for array in (matrix, values, work, integers)]
    routine(
        ctypes.c_char_p(b"N"),
        ctypes.c_char_p(b"L"),
        ctypes.byref(size),
        pointer[0],
        ctypes.byref(size),
        pointer[1],
        pointer[2],
        ctypes.byref(lengths[0]),
        pointer[3],
        ctypes.byref(lengths[1]),
        ctypes.byref(info),
        ctypes.c_size_t(1),
        ctypes.c_size_t(1),
    )
    return info.value
