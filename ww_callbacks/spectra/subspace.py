"""The leading directions of a matrix: how far they turned, how many are lost, and which are new."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, subspace_angles

from ww_callbacks.spectra.bulk import edge_threshold
from ww_callbacks.spectra.directions import DIRECTION_LEVEL, num_leading
from ww_callbacks.spectra.eigen import Precision, float32_error, gram, magnitude, power_of_two_scale, row_blocks
from ww_callbacks.spectra.types import Floats

MIN_GAP = 1.2
"""Smallest ratio of neighbouring eigenvalues between which a subspace is cut. Closer ones swap by small changes."""
SAME_DIRECTION = 0.5
"""Two singular vectors with at least this cosine are the same direction (arXiv 2410.21228)."""

MAX_ERROR = 0.01
"""Largest error of single precision, relative to the smallest of the eigenvalues."""

_SMALL = 64  # up to this size all directions are computed
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Leading:
    """The leading directions of a matrix.

    Attributes:
        values: the largest eigenvalues of WᵀW, shape (k,), descending.
        vectors: left singular vectors, shape (rows, k).
        num_directions: how many of them stand out from noise of the same norm, at most k.
    """

    values: Floats
    vectors: NDArray[np.floating]
    num_directions: int

    @property
    def num_separate(self) -> int:
        """The largest number of standing-out directions after which the eigenvalues fall by a factor of ``MIN_GAP``."""
        gaps = self.values[:-1] >= MIN_GAP * self.values[1:]
        return int(np.flatnonzero(gaps[: self.num_directions]).max(initial=-1)) + 1


def leading_directions(matrix: NDArray[Any], count: int) -> Leading:
    """The largest singular values of a matrix and their left singular vectors, without a full decomposition.

    They are computed from the Gram matrix of the shorter side with a Lanczos method (ARPACK) from a fixed start
    vector. Weights of at most 32 bits are decomposed in single precision if its error is at most 1 % of each of
    these eigenvalues. A direction stands out if :func:`num_directions` counts it.

    Args:
        matrix: W, shape (rows, columns).
        count: number of directions, at most as many as W has.

    Raises:
        ValueError: W is zero or not finite, the directions did not converge, or ``count`` is not positive.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> u, v = rng.standard_normal(300), rng.standard_normal(200)
        >>> found = leading_directions(rng.standard_normal((300, 200)) + np.outer(u, v), 5)
        >>> found.num_directions, bool(abs(found.vectors[:, 0] @ u) > 0.95 * np.linalg.norm(u))
        (1, True)
    """
    rows, columns = matrix.shape
    count = min(count, rows, columns)
    if count < 1:
        raise ValueError(f"count: expected at least 1 direction of a {rows} x {columns} matrix, got {count}")
    largest = magnitude(matrix)
    if not 0 < largest < math.inf:
        raise ValueError(f"matrix: expected finite elements that are not all zero, the largest is {largest}")
    precision: Precision = "float64" if matrix.dtype.itemsize > 4 else "float32"
    found = _leading(matrix, count, largest, precision)
    if precision == "float32":
        error = float32_error(float(found.values[0]), rows, columns)
        if error > MAX_ERROR * float(found.values[-1]):
            found = _leading(matrix, count, largest, "float64")
    return found


def _leading(matrix: NDArray[Any], count: int, largest: float, precision: Precision) -> Leading:
    rows, columns = matrix.shape
    scale = power_of_two_scale(largest, precision)
    shorter = matrix.T if rows <= columns else matrix
    product = gram(row_blocks(shorter), shorter.shape[1], precision, scale)
    total = float(np.trace(product))
    product *= 1 / total  # ARPACK's tolerance is not relative below 1e-10
    shares, vectors = _largest(product, count)
    found = num_leading(shares, 1.0, rows, columns, DIRECTION_LEVEL)
    if rows > columns:
        vectors, _ = np.linalg.qr(np.ldexp(matrix.astype(precision, copy=False), -scale) @ vectors)
    return Leading(np.ldexp(shares * total, 2 * scale), vectors, found)


def _largest(product: NDArray[np.floating], count: int) -> tuple[Floats, NDArray[np.floating]]:
    """The largest eigenvalues, descending, and their eigenvectors, of a symmetric matrix with this upper triangle."""
    size = len(product)
    if size <= _SMALL or 4 * count > size:
        values, vectors = eigh(product, lower=False, subset_by_index=(size - count, size - 1))
    else:
        from scipy.sparse.linalg import ArpackError, eigsh  # loaded only if needed: a worker starts faster

        start = np.random.default_rng(0).standard_normal(size).astype(product.dtype)
        try:
            values, vectors = eigsh(_symmetric(product), count, which="LA", tol=_TOLERANCE, v0=start)
        except ArpackError as error:
            raise ValueError(f"matrix: its leading directions did not converge: {error}") from error
    order = np.argsort(values)[::-1]
    return np.maximum(values[order].astype(np.float64), 0.0), vectors[:, order]


def _symmetric(upper: NDArray[np.floating]) -> NDArray[np.floating]:
    """The symmetric matrix with this upper triangle."""
    return np.triu(upper) + np.triu(upper, 1).T


def rotation(before: Leading, now: Leading) -> float | None:
    """Largest principal angle between the leading subspaces of a matrix before and after a change, in degrees.

    The subspace before is that of the directions that stand out from noise, cut where neighbouring eigenvalues differ
    by a factor of at least ``MIN_GAP``: closer ones swap by small changes (the sin θ theorem of Davis and Kahan, *The
    rotation of eigenvectors by a perturbation*, 1970). The subspace after it has as many directions.

    Args:
        before: leading directions of the earlier matrix.
        now: leading directions of the later matrix, at least as many.

    Returns:
        0 to 90 degrees; None if no direction stands out and is separate.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> noise, u, v = rng.standard_normal((300, 200)), rng.standard_normal(300), rng.standard_normal(200)
        >>> turned = np.roll(u, 1)
        >>> before, now = (leading_directions(noise + np.outer(each, v), 5) for each in (u, turned))
        >>> 80 < rotation(before, now) <= 90, rotation(before, before) < 0.1
        (True, True)
    """
    count = before.num_separate
    if count == 0:
        return None
    angles = subspace_angles(before.vectors[:, :count], now.vectors[:, :count])
    return float(np.degrees(angles.max()))


def subspace_loss(before: Leading, now: Leading) -> float | None:
    """Share of the leading subspace before a change that the leading subspace of the same size after it lacks.

    1 - ‖U₀ᵀU‖²_F/k, with the k directions U₀ that stood out from noise before, and the k leading ones U after.

    Args:
        before: leading directions of the earlier matrix.
        now: leading directions of the later matrix, at least as many.

    Returns:
        0 (the same subspace) to 1 (orthogonal); None if no direction stood out.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> W = rng.standard_normal((300, 200)) + np.outer(rng.standard_normal(300), rng.standard_normal(200))
        >>> subspace_loss(leading_directions(W, 5), leading_directions(2 * W, 5)) < 1e-6
        True
    """
    count = before.num_directions
    if count == 0:
        return None
    cosines = before.vectors[:, :count].T @ now.vectors[:, :count]
    return float(np.clip(1 - np.square(cosines, dtype=np.float64).sum() / count, 0, 1))


def num_intruders(vectors: NDArray[np.floating], before: NDArray[Any], change: NDArray[Any]) -> int:
    """Number of leading directions of W that W₀ does not have and that the change W - W₀ explains.

    An intruder dimension is a leading singular vector of the tuned weights whose cosine with every singular vector of
    the base is below ½. Noise makes such vectors too, because singular vectors with close singular values mix. So the
    change has to be larger in this direction than a noise matrix of its norm is in any: uᵀΔW ΔWᵀu above
    :func:`edge_threshold`. Test first whether the change could be noise with uneven rows or columns
    (:func:`null_test`).

    Source: Shuttleworth et al., *LoRA vs full fine-tuning: an illusion of equivalence* (arXiv 2410.21228), for the
    definition without noise.

    Args:
        vectors: leading left singular vectors of W, shape (rows, k); ten in the paper.
        before: W₀, shape (rows, columns).
        change: W - W₀, same shape.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> W0 = rng.standard_normal((300, 200))
        >>> noise = rng.standard_normal((300, 200))
        >>> low_rank = rng.standard_normal((300, 2)) @ rng.standard_normal((2, 200))
        >>> [num_intruders(leading_directions(W0 + E, 10).vectors, W0, E) for E in (low_rank, noise)]
        [2, 0]
    """
    rows, columns = change.shape
    moved = np.square(change.T @ vectors, dtype=np.float64).sum(axis=0)
    mean_square = float(np.square(np.linalg.norm(change.astype(np.float64)))) / change.size
    large = moved > edge_threshold(mean_square, rows, columns, DIRECTION_LEVEL)
    if not large.any():
        return 0
    cosines = np.abs(_coordinates(before, vectors[:, large])).max(axis=0)
    return int(np.count_nonzero(cosines < SAME_DIRECTION))


def _coordinates(matrix: NDArray[Any], vectors: NDArray[Any]) -> Floats:
    """Cosines of vectors with all left singular vectors of a matrix, from the Gram matrix of its smaller side."""
    rows, columns = matrix.shape
    wide = matrix.astype(np.float64)
    shorter = wide.T if rows <= columns else wide
    values, basis = eigh(gram(row_blocks(shorter), len(shorter.T), "float64"), lower=False)
    exists = values > len(values) * np.finfo(np.float64).eps * values[-1]
    projected = vectors if rows <= columns else wide.T @ vectors
    cosines: Floats = (basis.T @ projected)[exists]
    return cosines if rows <= columns else cosines / np.sqrt(values[exists])[:, None]
