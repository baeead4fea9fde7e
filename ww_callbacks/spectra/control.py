"""The shuffled control: eigenvalues after a random permutation of the elements, which keeps only their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.bulk import LEVEL, edge_threshold, element_variance, marchenko_pastur_edge
from ww_callbacks.spectra.eigen import (
    MAX_UNRESOLVED,
    Precision,
    checked,
    float32_error,
    rank_tolerance,
    scaled_eigenvalues,
)
from ww_callbacks.spectra.null import beyond_chance, separable_edge
from ww_callbacks.spectra.shuffle import shuffled_blocks
from ww_callbacks.spectra.tracy_widom import tracy_widom_isf, tracy_widom_sf
from ww_callbacks.spectra.traps import Place, TrapCause, TrapKind, trap_cause
from ww_callbacks.spectra.types import Floats

_CLEAR = 0.05
"""Without a p-value below this at the Marchenko-Pastur edge, nothing else is computed."""


@dataclass(frozen=True, slots=True)
class ShuffledControl:
    """Results of the shuffled matrices of a layer.

    Attributes:
        values: eigenvalues of all shuffled matrices together, ascending, shape (n,); 0 if below the rounding error.
        max_rand_eval: the largest eigenvalue.
        num_traps: number of correlation traps: eigenvalues above the random edge at the given level.
        trap_pvalue: probability of a max_rand_eval at least this large without traps; 1 if scales of rows and columns
            or a diagonal explain it.
        trap_size: the largest eigenvalue of a shuffled matrix divided by the Marchenko-Pastur edge λ₊ of its variance;
            the maximum over kernel positions. About 1 without traps; infinite if all elements are equal.
        trap_kind: what lifts the largest eigenvalue above the Marchenko-Pastur edge, see :func:`trap_cause`; None if
            it is not above it at the given level. It is not None for elements with heavy tails and for uneven rows and
            columns either, which are no traps.
        trap_places: up to five rows, columns or elements that cause it, largest first: indices (row, column) or (row,)
            or (column,) of ``matrices``, with the position in front for a stack, and the value of the element or the
            scale of the row or column relative to the median.
    """

    values: Floats
    max_rand_eval: float
    num_traps: int
    trap_pvalue: float
    trap_size: float
    trap_kind: TrapKind | None
    trap_places: tuple[Place, ...]


def shuffled_control(
    matrices: NDArray[np.generic],
    *,
    seed: int = 0,
    level: float = LEVEL,
    variances: Sequence[float] | None = None,
    largest: float | None = None,
) -> ShuffledControl:
    """Shuffle the elements of a layer's matrices and count the eigenvalues that still lie outside the random bulk.

    A permutation keeps the element variance, so the edge λ₊ + q·Δ of :func:`edge_threshold` needs no fit. Each
    kernel position is tested against its own variance at ``level`` divided by the number of positions. Shuffling
    destroys low-rank structure, so it does not count. Large single elements and a shifted mean survive.

    Heavy tails, many zeros and different scales of rows or columns also lift the largest eigenvalue, although nothing
    was learned. An eigenvalue above the edge is therefore compared with a second edge, that of a matrix with the row
    and column variances of the shuffled matrix (:func:`separable_edge`). The scatter that these have for Gaussian
    elements is taken off, and elements with a square above √(NM)σ² count as average, because each is an eigenvalue
    outside the bulk. What exceeds the second edge is a trap, unless scales of rows or columns or a diagonal before the
    shuffle explain it (:func:`trap_cause`).

    The permutation depends on (seed, N, M, position) only and applies to the matrix with N ≥ M rows (a square matrix
    as given: out × in). The result therefore changes only if the weights change. Eigenvalues are computed in single
    precision, and again in double precision if one of them is closer to the threshold than the rounding error, or if
    more than 1 % of them are below it. The count equals that from the float64 singular values of
    :func:`shuffle_matrix`.

    Sources: Martin and Mahoney, *Implicit self-regularization in deep neural networks* (2021), for the shuffle;
    Prakash and Martin, *Grokking and generalization collapse* (2025), for the trap; Johnstone (2001) for the edge.

    Args:
        matrices: weights, shape (rows, columns) or (positions, rows, columns), any real dtype.
        seed: seed of the permutation.
        level: significance level per layer.
        variances: element variance of each position, if known.
        largest: largest absolute element of the layer, if known.

    Raises:
        ValueError: ``matrices`` is neither two- nor three-dimensional, empty, not real or not finite.

    Example:
        >>> import numpy as np
        >>> W = np.random.default_rng(0).standard_normal((200, 100))
        >>> shuffled_control(W).num_traps
        0
        >>> W[3, 4] = 40.0
        >>> control = shuffled_control(W)
        >>> control.num_traps, round(control.trap_size, 1), control.trap_kind, control.trap_places
        (1, 3.1, 'elements', (((3, 4), 40.0),))
    """
    matrices = np.asarray(matrices)
    if matrices.ndim == 2:
        matrices = matrices[None]
    if matrices.ndim != 3 or matrices.size == 0:
        raise ValueError(f"matrices: expected a non-empty matrix or stack of matrices, got shape {matrices.shape}")
    if variances is None:
        variances = [element_variance(matrix) for matrix in matrices]
    each = level / len(matrices)
    parts = [
        _one(matrix, largest, seed, position, variance, each)
        for position, (matrix, variance) in enumerate(zip(matrices, variances, strict=True))
    ]
    values = np.sort(np.concatenate([part.values for part in parts]))
    worst = max(range(len(parts)), key=lambda position: (parts[position].num_traps > 0, parts[position].size))
    cause = parts[worst].cause
    places = () if cause is None else cause.places
    return ShuffledControl(
        values=values,
        max_rand_eval=float(values[-1]),
        num_traps=sum(part.num_traps for part in parts),
        trap_pvalue=min(1.0, len(parts) * tracy_widom_sf(max(part.score for part in parts))),
        trap_size=max(part.size for part in parts),
        trap_kind=None if cause is None else cause.kind,
        trap_places=tuple(((worst, *index), value) for index, value in places) if len(parts) > 1 else places,
    )


def shuffle_matrix(matrix: NDArray[np.generic], *, seed: int = 0, position: int = 0) -> NDArray[np.generic]:
    """The shuffled matrix analysed by :func:`shuffled_control`, with N ≥ M rows.

    Args:
        matrix: weights, shape (rows, columns).
        seed: seed of the permutation.
        position: index of the kernel position, 0 for a dense layer.

    Raises:
        ValueError: ``matrix`` is not two-dimensional, empty, not real or not finite.

    Example:
        >>> import numpy as np
        >>> W = np.arange(6.0).reshape(2, 3)
        >>> shuffle_matrix(W).shape, sorted(shuffle_matrix(W).ravel()) == sorted(W.ravel())
        ((3, 2), True)
    """
    tall, _ = checked(matrix)
    shuffled, filled = np.empty_like(tall, order="C"), 0
    for block in shuffled_blocks(tall, seed=seed, position=position):
        shuffled[filled : filled + len(block)] = block
        filled += len(block)
    return shuffled


def spectral_distance(values: NDArray[np.floating], others: NDArray[np.floating]) -> float:
    """Jensen-Shannon distance between two spectra of the same length, matched by rank.

    √(½ KL(p‖m) + ½ KL(q‖m)) with the natural logarithm, where p and q are the sorted eigenvalues divided by their
    sums and m is the mean of p and q. It is 0 for equal spectra and at most √ln 2. WeightWatcher calls it
    ``rand_distance``.

    Args:
        values: eigenvalues ≥ 0, shape (n,), not all zero.
        others: eigenvalues of the other spectrum, with the same properties.

    Raises:
        ValueError: the shapes differ, or the sum of a spectrum is not positive and finite.

    Example:
        >>> import numpy as np
        >>> spectral_distance(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
        0.0
    """
    if np.shape(values) != np.shape(others) or np.ndim(values) != 1:
        raise ValueError(f"others: expected shape {np.shape(values)}, got {np.shape(others)}")
    p, q = np.sort(values).astype(np.float64), np.sort(others).astype(np.float64)
    if not (0 < p.sum() < np.inf and 0 < q.sum() < np.inf):
        raise ValueError("values, others: expected eigenvalues with a finite positive sum")
    p, q = p / p.sum(), q / q.sum()
    divergence = (_relative_entropy(p, (p + q) / 2) + _relative_entropy(q, (p + q) / 2)) / 2
    return math.sqrt(max(divergence, 0.0))


def _relative_entropy(p: Floats, m: Floats) -> float:
    positive = p > 0
    return float((p[positive] * np.log(p[positive] / m[positive])).sum())


@dataclass(frozen=True, slots=True)
class _Position:
    """Results of one kernel position.

    Attributes:
        values: eigenvalues of the shuffled matrix, ascending.
        num_traps: number of them above the threshold.
        score: the largest in Tracy-Widom units.
        size: the largest divided by the Marchenko-Pastur edge.
        cause: what lifts the largest above the Marchenko-Pastur edge, if it is above it.
    """

    values: Floats
    num_traps: int
    score: float
    size: float
    cause: TrapCause | None


def _one(
    matrix: NDArray[np.generic], largest: float | None, seed: int, position: int, variance: float, level: float
) -> _Position:
    tall, largest = checked(matrix, largest)
    rows, columns = tall.shape
    edge, width = marchenko_pastur_edge(variance, rows, columns)
    values = _eigenvalues(tall, largest, seed, position, "float32")
    factor = 1.0
    if width > 0 and float(values[-1]) > edge + tracy_widom_isf(_CLEAR) * width:
        factor = _edge_factor(tall, seed, position)
    plain = edge_threshold(variance, rows, columns, level)
    threshold = max(factor * plain, rank_tolerance(float(values[-1]), rows, columns))
    rounding = float(values[-1]) * (rows * float(np.finfo(np.float32).eps))
    noise = float32_error(float(values[-1]), rows, columns)
    if np.abs(values - threshold).min() <= rounding or (values <= noise).mean() > MAX_UNRESOLVED:
        values = _eigenvalues(tall, largest, seed, position, "float64")
        noise = rank_tolerance(float(values[-1]), rows, columns)
    values = np.where(values > noise, values, 0.0)
    top, traps = float(values[-1]), int(np.count_nonzero(values > threshold))
    if width > 0:
        score, size = (top / factor - edge) / width, top / edge
    else:
        score, size = (math.inf, math.inf) if top > 0 else (-math.inf, 0.0)
    cause = trap_cause(matrix, level=level) if top > min(plain, threshold) else None
    if cause is not None and cause.is_structure:
        score, traps = -math.inf, 0
    return _Position(values, traps, score, size, cause)


def _edge_factor(tall: NDArray[np.generic], seed: int, position: int) -> float:
    """Edge of the shuffled matrix for its row and column variances, divided by that for even ones; at least 1."""
    rows, columns = tall.shape
    root = math.sqrt(rows * columns)
    mean = float(np.mean(tall, dtype=np.float64))  # type: ignore[arg-type]
    deviation = math.sqrt(element_variance(tall))
    parts, c = [], np.zeros(columns)
    for block in shuffled_blocks(tall, seed=seed, position=position):
        s = np.subtract(block, mean, dtype=np.float64)
        s *= 1 / deviation
        np.square(s, out=s)
        if float(s.max()) > root:
            s[s > root] = 1.0  # such an element is an eigenvalue outside the bulk
        parts.append(s.sum(axis=1))
        c += s.sum(axis=0)
    r = np.concatenate(parts)
    even = float(c.sum()) * (math.sqrt(rows) + math.sqrt(columns)) ** 2 / (rows * columns)
    factor: float = separable_edge(beyond_chance(r, columns), beyond_chance(c, rows)) / even
    return max(1.0, factor)


def _eigenvalues(tall: NDArray[np.generic], largest: float, seed: int, position: int, precision: Precision) -> Floats:
    return scaled_eigenvalues(shuffled_blocks(tall, seed=seed, position=position), tall.shape[1], precision, largest)
