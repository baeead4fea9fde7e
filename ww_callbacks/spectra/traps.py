"""Why the largest eigenvalue of a shuffled matrix lies above the Marchenko-Pastur edge."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.bulk import LEVEL, edge_threshold, element_variance, marchenko_pastur_edge
from ww_callbacks.spectra.eigen import checked, contiguous
from ww_callbacks.spectra.types import Floats

TrapKind = Literal["mean", "rows", "columns", "elements", "kurtosis", "mixed"]

MAX_PLACES = 5
_BLOCK = 2**15  # elements converted to float64 at a time
_EQUAL = 1e-12
"""Variance, relative to the square of the mean, at which all elements count as equal."""

_NEGLIGIBLE = 1e-24
"""Sum of the squares of the other elements, relative to the largest square, that counts as 0."""
_SAFE = 1e60
"""Largest element, and its inverse, up to which squares and fourth powers stay in the range of double precision."""
_FEW = 0.002
"""Share of elements outside the bulk up to which they are single ones."""
_COMMON_SIGN = 4.0
"""Sum of the elements of a row, in standard deviations under random signs, above which its mean is not 0."""

Place = tuple[tuple[int, ...], float]
"""Index, (row, column) or (row,) or (column,), and the element, or the scale of the row or column / their median."""


@dataclass(frozen=True, slots=True)
class TrapCause:
    """Result of :func:`trap_cause`.

    Attributes:
        kind: "mean": the mean of the elements is not 0; "rows" or "columns": some of them have larger scales or means
            than others; "elements": single elements are very large; "kurtosis": the elements have heavy tails or many
            of them are zero; "mixed": more than one of these. A mean prevails if its eigenvalue is at least twice as
            large as that of the other causes.
        places: up to five places with the largest values, largest first; empty for other kinds than "rows", "columns"
            and "elements".
        is_structure: whether known structure explains the eigenvalue: different scales of rows and columns, with
            random signs, or a diagonal as of an identity matrix.
    """

    kind: TrapKind
    places: tuple[Place, ...]
    is_structure: bool


def trap_cause(matrix: NDArray[Any], *, level: float = LEVEL) -> TrapCause:
    """Find what lifts the largest eigenvalue of a shuffled matrix above the Marchenko-Pastur edge.

    Each possible cause is taken away in turn, and the largest eigenvalue that remains is predicted from the elements:

    - A mean or a single element of strength θ, in standard deviations of the others, has the eigenvalue
      (θ² + N)(θ² + M)/θ² if θ² > √(NM).
    - The other elements have the edge λ₊ (1 + κ/√(NM)), where κ ≥ 0 is their excess kurtosis.
    - Scales are taken away by dividing each row or column by the square of the mean of √|w|, which a single large
      element hardly changes.
    - The diagonal is left out if at least half of it lies outside the bulk.

    Sources: Benaych-Georges and Nadakuditi, *The singular values and vectors of low rank perturbations of large
    rectangular random matrices* (2012), for the eigenvalue of a spike. The effect of the kurtosis is our own estimate:
    the row sums of the squares scatter by κ/M more than those of a Gaussian matrix, and the edge follows them.

    Args:
        matrix: weights, shape (rows, columns), any real dtype.
        level: significance level of the threshold.

    Raises:
        ValueError: ``matrix`` is not two-dimensional, empty, not real or not finite.

    Example:
        >>> import numpy as np
        >>> W = np.random.default_rng(0).standard_normal((100, 200))
        >>> W[3, 4] = 40.0
        >>> trap_cause(W)
        TrapCause(kind='elements', places=(((3, 4), 40.0),), is_structure=False)
        >>> trap_cause(W + 0.3).kind, trap_cause(W + 1.0).kind
        ('mixed', 'mean')
    """
    matrix = contiguous(np.asarray(matrix))
    if matrix.ndim == 2 and not matrix.flags.c_contiguous:
        return _transposed(trap_cause(matrix.T, level=level))
    tall, largest = checked(matrix)
    if largest > 0 and not 1 / _SAFE < largest < _SAFE:
        return _scaled(trap_cause(matrix.astype(np.float64) / largest, level=level), largest)
    n, m = tall.shape
    mean, variance = _typical_mean(matrix), element_variance(matrix)
    if variance <= _EQUAL * mean**2:
        return TrapCause("mean", (), False)
    edge, _ = marchenko_pastur_edge(1.0, n, m)
    limit = edge_threshold(1.0, n, m, level) / edge
    shift = _mean(matrix) - mean
    before = _profile(_squares(matrix, mean, scale=largest), n, m, (variance + shift**2) / largest**2)
    of_mean = _spike(mean**2 * n * m / variance, n, m) / edge
    if of_mean > limit:
        return TrapCause("mean" if before.largest <= max(limit, of_mean / 2) else "mixed", (), False)
    if before.is_even(limit):
        return TrapCause("mean" if of_mean >= before.rest else "kurtosis", (), False)
    if _without_diagonal(matrix, mean, before.bound * largest, largest) <= limit:
        return TrapCause("elements", _largest_elements(matrix, mean, before.bound * largest), True)
    rows, columns = _scales(matrix, mean, largest)
    by_rows = _profile(_squares(matrix, mean, largest, rows), n, m, float((before.r / rows**2).sum()) / (n * m))
    of_columns = float((before.c / columns**2).sum()) / (n * m)
    by_columns = _profile(_squares(matrix, mean, largest, None, columns), n, m, of_columns)
    if by_rows.is_even(limit) or by_columns.is_even(limit):
        if (by_rows.spike, by_rows.rest) <= (by_columns.spike, by_columns.rest):
            return _of_rows("rows", matrix, mean, rows)
        return _of_rows("columns", matrix.T, mean, columns)
    of_both = float((by_columns.r / rows**2).sum()) / (n * m)
    if _profile(_squares(matrix, mean, largest, rows, columns), n, m, of_both).is_even(limit):
        return TrapCause("mixed", (), True)
    if before.outside > max(MAX_PLACES, _FEW * n * m):
        return TrapCause("kurtosis", (), False)
    if before.rest > limit:
        return TrapCause("kurtosis" if before.spike <= before.rest else "mixed", (), False)
    return TrapCause("elements", _largest_elements(matrix, mean, before.bound * largest), False)


@dataclass(frozen=True, slots=True)
class _Profile:
    """What the sizes of the centred elements do to the largest eigenvalue, relative to the Marchenko-Pastur edge.

    Attributes:
        spike: predicted eigenvalue of the largest element, 0 if it lies inside the bulk.
        rest: predicted edge of the elements that lie inside the bulk.
        outside: number of the others.
        bound: smallest size of an element outside the bulk.
        r: row sums of the squares.
        c: column sums of the squares.
    """

    spike: float
    rest: float
    outside: int
    bound: float
    r: Floats
    c: Floats

    @property
    def largest(self) -> float:
        return max(self.spike, self.rest)

    def is_even(self, limit: float) -> bool:
        """Whether no element lies outside the bulk and the edge is not above ``limit``."""
        return self.spike == 0 and self.rest <= limit


def _profile(blocks: Iterator[Floats], n: int, m: int, variance: float) -> _Profile:
    """From blocks of rows of squares, whose mean is ``variance``. The blocks are overwritten."""
    bound = math.sqrt(n * m) * variance
    outside, squares, top = 0, 0.0, 0.0
    r, c, total = [], 0.0, 0.0
    for s in blocks:
        r.append(s.sum(axis=1))
        c = c + s.sum(axis=0)
        highest = float(s.max())
        top = max(top, highest)
        if highest > bound:
            over = s > bound
            outside += int(np.count_nonzero(over))
            s[over] = 0.0
            total += float(s.sum())
        else:
            total += float(r[-1].sum())
        squares += float(np.vdot(s, s))
    sums = np.concatenate(r), np.asarray(c)
    if total <= _NEGLIGIBLE * top:
        return _Profile(math.inf if top > 0 else 0.0, 0.0, outside, math.sqrt(bound), *sums)
    others = total / (n * m - outside)
    kurtosis = squares * (n * m - outside) / (total * total) - 3
    edge, _ = marchenko_pastur_edge(1.0, n, m)
    spike = _spike(top / others, n, m) / edge if top > bound else 0.0
    rest = 1 + max(kurtosis, 0.0) / math.sqrt(n * m)
    return _Profile(spike * others / variance, rest * others / variance, outside, math.sqrt(bound), *sums)


def _without_diagonal(matrix: NDArray[Any], mean: float, bound: float, largest: float) -> float:
    """What remains without the diagonal; infinite if most of it lies inside the bulk."""
    outside = np.abs(np.diagonal(matrix).astype(np.float64) - mean) > bound
    if 2 * np.count_nonzero(outside) < len(outside):
        return math.inf
    others = matrix.astype(np.float64)
    np.fill_diagonal(others, mean)
    n, m = sorted(matrix.shape, reverse=True)
    variance = sum(float(s.sum()) for s in _squares(others, mean, largest)) / (n * m)
    return _profile(_squares(others, mean, largest), n, m, variance).largest if variance > 0 else 0.0


def _spike(strength: float, n: int, m: int) -> float:
    """Eigenvalue of a spike θ² = ``strength`` in noise of unit variance, 0 below its onset."""
    return (strength + n) * (strength + m) / strength if strength > math.sqrt(n * m) else 0.0


def _squares(
    matrix: NDArray[Any], mean: float, scale: float, rows: Floats | None = None, columns: Floats | None = None
) -> Iterator[Floats]:
    """Squares of the centred elements divided by scales, in blocks of rows."""
    step = max(1, _BLOCK // matrix.shape[1])
    for start in range(0, len(matrix), step):
        block = np.subtract(matrix[start : start + step], mean, dtype=np.float64)
        block *= 1 / scale if rows is None else 1 / (scale * rows[start : start + step, None])
        if columns is not None:
            block *= 1 / columns
        yield np.square(block, out=block)


def _scales(matrix: NDArray[Any], mean: float, scale: float) -> tuple[Floats, Floats]:
    """Squared means of √|w - mean| of each row and column without its largest element; 1 if that is zero."""
    step = max(1, _BLOCK // matrix.shape[1])
    count = len(matrix), matrix.shape[1]
    rows, columns, tops = np.zeros(count[0]), np.zeros(count[1]), np.zeros(count[1])
    for start in range(0, count[0], step):
        block = np.subtract(matrix[start : start + step], mean, dtype=np.float64)
        block *= 1 / scale
        np.sqrt(np.abs(block, out=block), out=block)
        rows[start : start + step] = (block.sum(axis=1) - block.max(axis=1)) / max(count[1] - 1, 1)
        columns += block.sum(axis=0)
        np.maximum(tops, block.max(axis=0), out=tops)
    columns = (columns - tops) / max(count[0] - 1, 1)
    return _floored(rows), _floored(columns)


def _floored(roots: Floats) -> Floats:
    """The squares, but no scale that is negligible beside the largest."""
    top = float(roots.max())
    squares: Floats = np.square(np.maximum(np.where(roots > 0, roots, 1.0), math.sqrt(_EQUAL) * top))
    return squares


def _scaled(cause: TrapCause, scale: float) -> TrapCause:
    if cause.kind != "elements":
        return cause
    return replace(cause, places=tuple((index, value * scale) for index, value in cause.places))


def _transposed(cause: TrapCause) -> TrapCause:
    kind: TrapKind = {"rows": "columns", "columns": "rows"}.get(cause.kind, cause.kind)  # type: ignore[assignment]
    return replace(cause, kind=kind, places=tuple((index[::-1], value) for index, value in cause.places))


def _mean(matrix: NDArray[Any]) -> float:
    return float(np.mean(matrix, dtype=np.float64))


def _typical_mean(matrix: NDArray[Any]) -> float:
    """Median of the means of rows or columns, whichever is closer to 0; not changed by a few unusual ones."""
    medians = [float(np.median(matrix.mean(axis=axis, dtype=np.float64))) for axis in (0, 1)]
    return min(medians, key=abs)


def _of_rows(kind: TrapKind, matrix: NDArray[Any], mean: float, scales: Floats) -> TrapCause:
    """The rows with the largest scales. They are structure unless the elements of one of them have a common sign."""
    order = np.argsort(-scales, kind="stable")[:MAX_PLACES]
    middle = float(np.median(scales))
    chosen = matrix[order].astype(np.float64) - mean
    sums, squares = np.abs(chosen.sum(axis=1)), np.square(chosen).sum(axis=1)
    places = tuple(((int(index),), float(scales[index]) / middle) for index in order)
    return TrapCause(kind, places, bool((sums <= _COMMON_SIGN * np.sqrt(squares)).all()))


def _largest_elements(matrix: NDArray[Any], mean: float, bound: float) -> tuple[Place, ...]:
    found: list[tuple[float, int]] = []
    step = max(1, _BLOCK // matrix.shape[1])
    for start in range(0, len(matrix), step):
        distances = np.abs(np.subtract(matrix[start : start + step], mean, dtype=np.float64)).reshape(-1)
        first = start * matrix.shape[1]
        found += ((-float(distances[index]), first + int(index)) for index in np.flatnonzero(distances > bound))
    chosen = (divmod(index, matrix.shape[1]) for _, index in sorted(found)[:MAX_PLACES])
    return tuple((index, float(matrix[index])) for index in chosen)
