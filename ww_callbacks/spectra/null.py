"""Test of the null hypothesis that the signs of the weights are random while their sizes stay in place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc

from ww_callbacks.spectra.bulk import element_variance, marchenko_pastur_edge
from ww_callbacks.spectra.eigen import Precision, block_rows, checked
from ww_callbacks.spectra.lapack import add_gram
from ww_callbacks.spectra.tracy_widom import tracy_widom_sf
from ww_callbacks.spectra.types import Floats

SAMPLED_COLUMNS = 24
"""The variance is computed from the overlaps of this many columns with all columns; exact if there are no more."""
MAX_MEAN = 1e3
"""Mean of the elements, in standard deviations, up to which they can be centred."""
_TRACY_WIDOM_QUANTILE = 0.9793  # level 0.05
_NORMAL_QUANTILE = 3.09  # level 0.001
_CERTAIN = 1e-6
"""p-value of the first test below which the second is left out, because it costs more."""
_GRID, _REFINEMENTS, _NEWTON_STEPS = 12, 3, 5
_SAFE = 1e9
"""Largest absolute element, and its inverse, up to which fourth powers stay in the range of single precision."""


@dataclass(frozen=True, slots=True)
class NullTest:
    """Result of :func:`null_test`.

    Attributes:
        pvalue: of both tests together, 2 · min(sign_pvalue, edge_pvalue), at most 1; the sign_pvalue if there is no
            edge_pvalue.
        score: deviation of Σλ² from its mean under random signs, in standard deviations.
        sign_pvalue: probability of a score at least this large.
        edge_pvalue: probability of an eigenvalue at least as large as the largest, or 1 if it is larger than 0.05. None
            for several positions, and if the sign_pvalue is below 1e-6.
        uneven: whether the rows or the columns differ in scale by more than exchangeable elements do, at level 0.001.
    """

    pvalue: float
    score: float
    sign_pvalue: float
    edge_pvalue: float | None
    uneven: bool


def null_test(matrices: NDArray[Any], values: NDArray[np.float64] | None = None) -> NullTest:
    """Test whether the spectrum shows that the elements are arranged, as learning arranges them.

    Y is the matrix minus the mean of its elements. The positions of a convolution are unfolded into one matrix
    (:func:`unfolded`). The null hypothesis is that the signs of the elements of Y are random and that their sizes stay
    in place. With S = Y∘Y, row sums r and column sums c, the statistic Σλ² = ‖YᵀY‖²_F then has

    - the mean Σ r_k² + Σ c_i² - Σ s_ki²,
    - the variance 4 Σ s_ki s_kj s_li s_lj over all i ≠ j, k ≠ l,

    because the difference from the mean is a sum over the rectangles of Y, which are uncorrelated. Both hold for every
    pattern of sizes: different scales of rows, columns or kernel positions, masks, blocks, a diagonal, heavy tails.
    Such a pattern alone is therefore not significant. The p-value is the upper tail of a gamma distribution with
    skewness √(Σr²/(Σr)² + Σc²/(Σc)²), which is √(1/N + 1/M) for even sizes and that of Gaussian matrices or larger. A
    spectrum that is narrower than that of a random matrix, such as that of an orthogonal matrix, has a negative score
    and a p-value near 1.

    This statistic finds structure in many directions. For a single direction, the largest eigenvalue of one matrix is
    tested as well, against the Tracy-Widom law at the edge of a matrix whose elements have the variances r_k c_i/Σs
    (:func:`separable_edge`; r and c without the scatter of Gaussian elements, :func:`beyond_chance`), times
    1 + κ/√(NM) with κ ≥ 0 the excess kurtosis beyond these variances. If the mean was removed, the second largest
    eigenvalue is tested instead, which is not larger than the largest without the mean.

    Equal rows or columns give large eigenvalues although nothing was learned, for example tied weights or unused rows
    of an embedding. Of rows that are equal up to sign, only one is tested, and the same for columns. The largest
    eigenvalue is not tested then, because ``values`` belong to the whole matrix.

    Source: own derivation. The difference from the mean is the U-statistic of Chen, Zhang and Zhong, *Tests for
    high-dimensional covariance matrices* (2010).

    Args:
        matrices: weights, shape (rows, columns) or (positions, rows, columns), any real dtype.
        values: eigenvalues of WᵀW, ascending. Without them, for several positions, and for matrices with equal rows or
            columns, only Σλ² is tested.

    Raises:
        ValueError: ``matrices`` is empty, not real or not finite; the unfolded matrix has fewer than two distinct
            columns; the elements are nearly equal; or the large elements share no rectangle with others, as in a
            diagonal matrix.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> W = rng.standard_normal((200, 100)) * rng.exponential(size=(200, 1))
        >>> test = null_test(W)
        >>> test.pvalue > 0.01, test.uneven
        (True, True)
        >>> W += 0.3 * rng.standard_normal((200, 10)) @ rng.standard_normal((10, 100))
        >>> null_test(W).pvalue < 1e-6
        True
    """
    stack = np.asarray(matrices)
    oriented, largest = checked(unfolded(stack))
    tall: NDArray[Any] = oriented
    rows, columns = tall.shape
    if columns < 2:
        raise ValueError(f"matrices: expected at least two distinct rows and columns, got {rows} x {columns}")
    if largest == 0:
        raise ValueError("matrices: all elements are zero")
    if stack.ndim == 3 and len(stack) > 1:
        values = None
    if tall.dtype not in (np.float32, np.float64) or not 1 / _SAFE < largest < _SAFE:
        scale = 2.0 ** math.frexp(largest)[1]
        tall, largest = tall.astype(np.float64) / scale, largest / scale
        values = None if values is None else values / scale / scale
    mean, deviation = _mean_and_deviation(tall, float(np.einsum("ij,ij->", tall, tall)))
    if not deviation > abs(mean) / MAX_MEAN:
        raise ValueError(f"matrices: their standard deviation {deviation:g} is too small for their mean {mean:g}")
    sums = _sums(tall, mean, deviation, "float32", gram=values is None or mean != 0)
    distinct_rows, distinct_columns = _distinct(tall, sums.r), _distinct(tall.T, sums.c)
    if not (distinct_rows.all() and distinct_columns.all()):
        return null_test(tall[distinct_rows][:, distinct_columns])
    peak = (largest + abs(mean)) / deviation
    if not _is_accurate(sums, peak, "float32"):
        sums = _sums(tall, mean, deviation, "float64", gram=True)
        if not _is_accurate(sums, peak, "float64"):
            raise ValueError("matrices: the large elements share no rectangle with others, so signs have no effect")
    squares = sums.squares
    if squares is None and values is not None:
        scaled = values * (float(sums.c.sum()) / float(values.sum()))  # more accurate than 1/deviation²
        squares = float(scaled @ scaled) - float(sums.c @ sums.c)
    score = ((squares or 0.0) - float(sums.r @ sums.r) + sums.fourth) / math.sqrt(sums.variance)
    shape = 4 / (_inverse_size(sums.r) + _inverse_size(sums.c))
    sign = float(gammaincc(shape, max(shape + score * math.sqrt(shape), 0.0)))
    edge = None
    if values is not None and sign > _CERTAIN:
        edge = _edge_pvalue(float(values[-2 if mean else -1]) / deviation**2, sums)
    pvalue = sign if edge is None else min(1.0, 2 * min(sign, edge))
    return NullTest(pvalue, score, sign, edge, _is_uneven(sums.r, sums) or _is_uneven(sums.c, sums))


def separable_edge(r: NDArray[np.floating], c: NDArray[np.floating]) -> float:
    """Largest eigenvalue of WᵀW in the limit of large matrices, if the elements have the variances r_k c_i/Σr.

    The smallest value over 0 < a < 1/max r of Σ r_k/(1 - r_k a)/b, where b < 1/max c solves
    b Σ c_i/(1 - c_i b) = a Σ r_k/(1 - r_k a), with r and c divided by √Σr.

    Source: Paul and Silverstein, *No eigenvalues outside the support of the limiting empirical spectral distribution of
    a separable covariance matrix* (2009), whose equations are solved on the real axis above the support.

    Args:
        r: sums of the variances of each row, shape (N,), ≥ 0.
        c: sums of the variances of each column, shape (M,), ≥ 0, with the same total.

    Example:
        >>> import numpy as np
        >>> round(separable_edge(np.full(400, 100.0), np.full(100, 400.0)))  # (√400 + √100)²
        900
    """
    scale = math.sqrt(float(np.sum(r)))
    r, c = np.asarray(r[r > 0], np.float64) / scale, np.asarray(c[c > 0], np.float64) / scale
    top = float(r.max())
    low, high = 0.0, 1.0
    for _ in range(_REFINEMENTS):  # there is one minimum
        bounds = np.linspace(low, high, _GRID + 2)
        shares = bounds[1:-1]
        right = (r / (top / shares[:, None] - r)).sum(axis=1)
        edges = right / shares * top * _secular_root(c, right)
        best = int(np.argmin(edges))
        low, high = bounds[best], bounds[best + 2]
    return float(edges[best])


def beyond_chance(sums: NDArray[np.floating], count: int) -> Floats:
    """Sums of squares without the scatter that Gaussian elements have.

    The sums are pulled towards their mean, so that their variance decreases by 2 · count, or to 0.

    Args:
        sums: each over the squares of ``count`` elements of unit variance, shape (n,).
        count: number of elements in each sum.

    Example:
        >>> import numpy as np
        >>> beyond_chance(np.array([90.0, 110.0]), 100), beyond_chance(np.array([80.0, 120.0]), 100)
        (array([100., 100.]), array([ 85.85786438, 114.14213562]))
    """
    mean = float(sums.mean())
    deviations = sums.astype(np.float64) - mean
    scatter = float(np.square(deviations).mean())
    share = math.sqrt(max(0.0, 1 - 2 * count / scatter)) if scatter > 0 else 0.0
    return mean + share * deviations


def _secular_root(c: Floats, targets: Floats) -> Floats:
    """Solution u > max c of Σ c_i/(u - c_i) = target, for each target.

    The inverse of the sum is concave in u, so that Newton's method on it converges from below.
    """
    u: Floats = c.max() * (1 + 1 / targets)
    gaps, ratios = np.empty((2, len(u), len(c)))
    for _ in range(_NEWTON_STEPS):
        np.subtract(u[:, None], c, out=gaps)
        np.divide(c, gaps, out=ratios)
        total = ratios.sum(axis=1)
        ratios /= gaps
        u = u + (total / targets - 1) * total / ratios.sum(axis=1)
    return u


def unfolded(matrices: NDArray[Any]) -> NDArray[Any]:
    """The matrices of all kernel positions on top of each other, with their shorter side as columns.

    Args:
        matrices: shape (rows, columns) or (positions, rows, columns).

    Returns:
        Shape (positions · N, M) with N ≥ M.

    Example:
        >>> import numpy as np
        >>> unfolded(np.zeros((9, 16, 32))).shape
        (288, 16)
    """
    if matrices.ndim == 3 and matrices.shape[1] < matrices.shape[2]:
        matrices = matrices.swapaxes(1, 2)
    return matrices.reshape(-1, matrices.shape[-1]) if matrices.ndim == 3 else matrices


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over the standardised matrix Y, with G = YᵀY and S = Y∘Y.

    Attributes:
        r: row sums of S.
        c: column sums of S.
        fourth: Σ s_ki².
        squares: Σ G_ij² over i ≠ j; None if it was not computed.
        variance: variance of the squares under random signs.
    """

    r: Floats
    c: Floats
    fourth: float
    squares: float | None
    variance: float


def _sums(tall: NDArray[Any], mean: float, deviation: float, precision: Precision, *, gram: bool) -> _Sums:
    columns = tall.shape[1]
    sampled = _sampled(np.einsum("ij,ij->j", tall, tall))
    total = np.zeros((columns, columns) if gram else (0, 0), precision)
    overlaps, diagonals = np.zeros((2, len(sampled), columns))
    r, c, fourth = [], np.zeros(columns), 0.0
    for y in _blocks(tall, mean, deviation, precision):
        if gram:
            add_gram(total, y)
        s = np.square(y, out=y)
        r.append(s.sum(axis=1, dtype=np.float64))
        c += s.sum(axis=0, dtype=np.float64)
        chosen = s[:, sampled]
        overlaps += chosen.T @ s
        fourth += float(np.square(s, out=s).sum(dtype=np.float64))
        diagonals += np.square(chosen, out=chosen).T @ s
    each = np.square(overlaps) - diagonals
    each[np.arange(len(sampled)), sampled] = 0
    squares = 2 * float(np.square(np.triu(total, 1)).sum(dtype=np.float64)) if gram else None
    return _Sums(np.concatenate(r), c, fourth, squares, 4 * _extrapolated(each.sum(axis=1), sampled, c))


def _distinct(matrix: NDArray[Any], squares: Floats) -> NDArray[np.bool_]:
    """True for rows that equal no earlier row up to sign. Only rows with equal sums of squares are compared."""
    distinct = np.ones(len(squares), dtype=bool)
    order = np.argsort(squares, kind="stable")
    ordered = squares[order]
    near = ordered[1:] - ordered[:-1] <= 1e-9 * ordered[1:]
    if not near.any():
        return distinct
    suspects = order[np.append(near, False) | np.append(False, near)]
    seen = set()
    for index in np.sort(suspects):
        row = matrix[index]
        key = (row * np.sign(row[np.argmax(row != 0)]) + 0).tobytes()  # + 0 turns -0 into 0
        distinct[index] = key not in seen
        seen.add(key)
    return distinct


def _is_accurate(sums: _Sums, peak: float, precision: Precision) -> bool:
    """Whether the rounding errors of products with the largest element are far below the standard deviation."""
    rounding = peak**2 * len(sums.c) * float(np.finfo(precision).eps)
    return sums.variance > (100 * rounding) ** 2


def _edge_pvalue(largest: float, sums: _Sums) -> float:
    """p-value of the largest eigenvalue of Y, or 1 if it is above 0.05. Equal variances have the lowest edge."""
    rows, columns = len(sums.r), len(sums.c)
    edge, width = marchenko_pastur_edge(1.0, rows, columns)
    if largest < edge + _TRACY_WIDOM_QUANTILE * width:
        return 1.0
    r, c = beyond_chance(sums.r, columns), beyond_chance(sums.c, rows)
    separable = separable_edge(r, c) / (math.sqrt(rows) + math.sqrt(columns)) ** 2
    within = float(np.square(sums.r).sum() * np.square(sums.c).sum()) / (rows * columns) ** 2
    kurtosis = max(sums.fourth / within - 3, 0.0)
    factor = separable * (1 + kurtosis / math.sqrt(rows * columns))
    units = (largest - edge * factor) / (width * factor)
    return tracy_widom_sf(units) if units >= _TRACY_WIDOM_QUANTILE else 1.0


def _inverse_size(totals: Floats) -> float:
    """Inverse of the effective number of rows or columns."""
    return float(totals @ totals) / float(totals.sum()) ** 2


def _is_uneven(totals: Floats, sums: _Sums) -> bool:
    """Whether row or column sums of S scatter more than sums of exchangeable elements."""
    size = len(sums.r) * len(sums.c)
    expected = (len(totals) - 1) * (size / len(totals)) * (sums.fourth / size - 1)
    scatter = float(np.square(totals - totals.mean()).sum())
    rounding = 1e-10 * float(totals @ totals)
    return bool(scatter > expected * (1 + _NORMAL_QUANTILE * math.sqrt(2 / len(totals))) + rounding)


def _sampled(c: Floats) -> NDArray[np.intp]:
    """The columns with the largest sums of squares, and others evenly spaced in the order of these sums."""
    return np.argsort(-c, kind="stable")[_sampled_places(len(c), SAMPLED_COLUMNS // 2)]


@lru_cache(maxsize=64)
def _sampled_places(size: int, half: int) -> NDArray[np.intp]:
    """Places of the first ``half`` of ``size`` columns, and of as many others evenly spaced; read-only."""
    rest = max(size - half, 0)
    even = np.linspace(0, rest - 1, min(half, rest)).astype(np.intp) + half
    places = np.concatenate([np.arange(min(half, size)), even])
    places.flags.writeable = False
    return places


def _extrapolated(values: Floats, sampled: NDArray[np.intp], c: Floats) -> float:
    """Sum over all columns of a value that is about proportional to c². The largest columns are known."""
    half = SAMPLED_COLUMNS // 2
    total = float(values.sum())
    if len(sampled) < len(c):
        squares = np.square(c)
        known = float(squares[sampled[half:]].sum())
        others = float(squares.sum() - squares[sampled].sum())
        total += float(values[half:].sum()) * others / known if known else 0.0
    return total


def _mean_and_deviation(tall: NDArray[Any], squares: float) -> tuple[float, float]:
    """Mean and standard deviation of the elements. A mean within three standard errors of 0 counts as 0."""
    mean = float(np.mean(tall, dtype=np.float64))
    if mean**2 * tall.size <= 9 * squares / tall.size:
        return 0.0, math.sqrt(squares / tall.size)
    return mean, math.sqrt(element_variance(tall))


def _blocks(tall: NDArray[Any], mean: float, deviation: float, precision: Precision) -> Iterator[NDArray[np.floating]]:
    """Blocks of rows of (W - mean)/deviation, which may be overwritten."""
    step = block_rows(*tall.shape)
    for start in range(0, len(tall), step):
        block = tall[start : start + step]
        block = (block - mean if mean else block) / deviation
        yield np.ascontiguousarray(block, dtype=precision)
