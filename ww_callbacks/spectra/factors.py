"""Spectrum of a product of two thin matrices, B·A, from the factors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.eigen import magnitude

USED_SHARE = 0.99
"""Share of ‖B·A‖²_F that the directions in use hold. The others change B·A by at most a tenth of its norm."""


def factor_singular_values(B: NDArray[np.generic], A: NDArray[np.generic]) -> NDArray[np.float64]:
    """Singular values of B·A, without forming it.

    With B = Q₁R₁ and Aᵀ = Q₂R₂, they are those of the small matrix R₁R₂ᵀ, because Q₁ and Q₂ have orthonormal columns
    (Golub and Van Loan, *Matrix Computations*, 4th edition, §5.2 and §8.6). This takes O((N + M)·r²) operations instead
    of O(N·M²). The error is that of the product: about ε‖B‖‖A‖.

    Args:
        B: shape (outputs, r), finite, any real dtype.
        A: shape (r, inputs), finite, any real dtype.

    Returns:
        float64, shape (min(r, outputs, inputs),), ascending. All other singular values of B·A are 0. They are infinite
        or 0 if they are outside the range of float64.

    Raises:
        ValueError: the shapes do not fit, or one of them is empty.

    Example:
        >>> import numpy as np
        >>> factor_singular_values(np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.eye(2, 4))
        array([1., 3.])
    """
    B, A = np.asarray(B), np.asarray(A)
    if B.ndim != 2 or A.ndim != 2 or B.shape[1] != A.shape[0] or 0 in (*B.shape, *A.shape):
        raise ValueError(f"B, A: expected shapes (outputs, r) and (r, inputs), got {B.shape} and {A.shape}")
    (left, left_scale), (right, right_scale) = _triangle(B), _triangle(A.T)
    singular = np.linalg.svd(left @ right.T, compute_uv=False)[::-1]
    with np.errstate(over="ignore", under="ignore"):
        values: NDArray[np.float64] = np.ldexp(singular, left_scale + right_scale)
    return values


def rank_used(values: NDArray[np.floating], share: float = USED_SHARE) -> int:
    """Smallest number of directions that together hold a share of the squared Frobenius norm.

    Without the other directions, a matrix changes by at most √(1 - share) of its norm, and no matrix of the same rank
    is closer (Eckart and Young 1936).

    Args:
        values: eigenvalues ≥ 0 of WᵀW, ascending, shape (n,).
        share: of their sum.

    Returns:
        The number; 0 if all eigenvalues are 0.

    Example:
        >>> import numpy as np
        >>> rank_used(np.array([0.0, 0.5, 40.0, 60.0])), rank_used(np.zeros(4))
        (2, 0)
    """
    if not values.any():
        return 0
    shares = np.cumsum(values[::-1] / values[-1])
    return int(np.searchsorted(shares, share * shares[-1])) + 1


def _triangle(tall: NDArray[np.generic]) -> tuple[NDArray[np.float64], int]:
    """R of the QR decomposition of the matrix times 2⁻ᵉ, and e, with which no element is above 1."""
    exponent = int(np.frexp(magnitude(tall))[1])
    with np.errstate(under="ignore"):
        scaled = np.ldexp(tall.astype(np.float64), -exponent)
    return np.asarray(np.linalg.qr(scaled, mode="r")), exponent
