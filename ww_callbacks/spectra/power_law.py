"""Power-law fit to the upper tail of a spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.types import Floats

# Ranks, as fractions of a tail, at which D is bounded: at the coarse ranks for all candidates, at the fine ranks for
# the candidates left after the first full evaluations.
_COARSE = (np.arange(8) + 0.5) / 8
_FINE = (np.arange(48) + 0.5) / 48
_FIRST = 3
_BLOCK = 32
_SMALL = 96
"""Up to this number of values, the deviations at all ranks of all candidates take less time than those at some."""
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class PowerLawFit:
    """A density proportional to x^-alpha for x ≥ xmin.

    Attributes:
        alpha: exponent of the density.
        sigma: asymptotic standard error (alpha - 1)/√k at a known xmin, with k = ``num_pl_spikes``.
        xmin: smallest value of the tail.
        xmax: largest value of the tail.
        D: Kolmogorov-Smirnov distance between tail and fit, from the lower side of each step of the empirical
            distribution only.
        num_pl_spikes: number k of values ≥ xmin.
    """

    alpha: float
    sigma: float
    xmin: float
    xmax: float
    D: float
    num_pl_spikes: int


def fit_power_law(values: NDArray[np.floating]) -> PowerLawFit:
    """Fit a power law to the upper tail. xmin minimises the Kolmogorov-Smirnov distance.

    Every value except the largest is a candidate x_i for xmin. For the k = n - i values x_j, j ≥ i, of the sorted
    sample

    - ``alpha_i = 1 + k / Σ ln(x_j/x_i)``
    - ``D_i = max_j |1 - (x_j/x_i)^(1 - alpha_i) - (j - i)/k|``

    are computed. The first candidate with the smallest D_i is chosen. The search is exact: lower bounds of D_i from a
    few ranks decide which candidates are evaluated in full.

    Sources: Clauset, Shalizi and Newman, *Power-law distributions in empirical data* (2009), eq. 3.1 and 3.9. The
    conventions are WeightWatcher's, and alpha, D and xmin are identical to its results to the last bit: D uses the
    empirical distribution 0, 1/k, …, (k - 1)/k and not its upper side 1/k, …, 1, and of several values equal to xmin
    only those from the chosen candidate on count in alpha and D. ``num_pl_spikes`` counts all values ≥ xmin, as in
    WeightWatcher. ``sigma`` uses that number; WeightWatcher's uses n - i, which is smaller if values equal xmin.

    Args:
        values: positive numbers, shape (n,), n ≥ 2, in any order.

    Raises:
        ValueError: ``values`` is not one-dimensional, has fewer than two elements, is constant, or contains an
            element that is not finite and positive.

    Example:
        >>> import numpy as np
        >>> fit = fit_power_law(np.random.default_rng(0).pareto(2.0, 2000) + 1.0)  # alpha = 3
        >>> 2.8 < fit.alpha < 3.2
        True
    """
    return best_tail(Tails(values))


def best_tail(tails: Tails) -> PowerLawFit:
    """:func:`fit_power_law` of values whose tails are known."""
    x = tails.x
    distance, start, alpha = _search_small(tails) if len(x) <= _SMALL else _search_large(tails)
    k = len(x) - int(x.searchsorted(x[start]))
    return PowerLawFit(
        alpha=alpha,
        sigma=(alpha - 1) / math.sqrt(k),
        xmin=float(x[start]),
        xmax=float(x[-1]),
        D=distance,
        num_pl_spikes=k,
    )


def hill_alpha(values: NDArray[np.floating]) -> float:
    """Hill estimate with xmin fixed at the median: 1 + k / Σ ln(x_j/x_i), i = ⌊n/2⌋, k = n - i.

    It does not search for xmin, so it changes smoothly during training. It is not comparable with the fitted alpha:
    random matrices give about 2 (square) to 5 (10 : 1), and the thresholds 2 and 6 do not apply.

    Source: Zhou et al., *Temperature Balancing, Layer-wise Weight Analysis, and Neural Network Training* (2023).

    Args:
        values: positive numbers, shape (n,), n ≥ 2, in any order.

    Raises:
        ValueError: as for :func:`fit_power_law`, or the upper half of the values is constant.

    Example:
        >>> import numpy as np
        >>> round(hill_alpha(np.array([1.0, 1.0, 1.0, np.e])), 6)
        3.0
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    _check(x)
    start = len(x) // 2
    log_sum = float(np.log(x[start:] / x[start]).sum())
    if log_sum <= 0:
        raise ValueError("values: the upper half is constant, so there is no Hill estimate")
    return 1 + (len(x) - start) / log_sum


def _check(x: Floats) -> None:
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"values: expected a one-dimensional array of at least two numbers, got shape {x.shape}")
    if not (x[0] > 0 and x[-1] < math.inf):
        raise ValueError("values: expected finite numbers > 0")
    if x[0] == x[-1]:
        raise ValueError(f"values: all {len(x)} are equal, so there is no tail to fit")


def _evaluate(x: Floats, log_x: Floats, i: int) -> tuple[float, float]:
    """alpha_i and D_i, with the operations in the same order as WeightWatcher, for bitwise equal results."""
    k = float(len(x) - i)
    log_sum = float(np.sum(log_x[i:]) - k * log_x[i])
    alpha = 1 + k / log_sum if log_sum else math.inf
    if alpha <= 1:
        return alpha, 1.0
    model = 1 - (x[i:] / x[i]) ** (-alpha + 1)
    return alpha, float(np.max(np.abs(model - np.arange(k) / k)))


def _search_small(tails: Tails) -> tuple[float, int, float]:
    """(D, index, alpha) of the first candidate with the smallest D. The smallest bounds are evaluated first."""
    with np.errstate(invalid="ignore"):
        bounds = tails.all_distances - tails.slack
    bounds[~(bounds > 0)] = 0.0
    best = (math.inf, len(bounds), math.nan)
    for i in np.argsort(bounds, kind="stable").tolist():
        if bounds[i] > best[0]:
            break
        alpha, distance = _evaluate(tails.x, tails.log_x, i)
        best = min(best, (distance, i, alpha))
    return best


def _search_large(tails: Tails) -> tuple[float, int, float]:
    """The same as :func:`_search_small`, with bounds from some ranks first."""
    x, log_x = tails.x, tails.log_x
    bounds = tails.at_ranks(np.arange(len(x) - 1), _COARSE)
    best = (math.inf, len(x), math.nan)
    for i in np.argsort(bounds, kind="stable")[:_FIRST].tolist():
        alpha, distance = _evaluate(x, log_x, i)
        best = min(best, (distance, i, alpha))
        bounds[i] = math.inf
    left = np.flatnonzero(bounds <= best[0])
    bounds = np.maximum(bounds[left], tails.at_ranks(left, _FINE))
    for bound, i in sorted(zip(bounds.tolist(), left.tolist(), strict=True)):
        if bound > best[0]:
            break
        if tails.at_all_ranks(i) > best[0]:
            continue
        alpha, distance = _evaluate(x, log_x, i)
        best = min(best, (distance, i, alpha))
    return best


class Tails:
    """All tails of a spectrum: every value except the largest is a candidate for xmin.

    The arrays of candidates have the shape (n - 1,). Candidate i has the tail of the values from i on.

    Args:
        values: positive numbers, shape (n,), n ≥ 2, in any order.

    Raises:
        ValueError: as for :func:`fit_power_law`.

    Attributes:
        x: the values, ascending.
        log_x: their logarithms.
        size: size k of each tail.
        slope: alpha - 1 of each tail, up to rounding; infinite if its values are equal.
        slack: bound of the rounding errors of D and of its lower bounds.
    """

    def __init__(self, values: NDArray[np.floating]) -> None:
        self.x = np.sort(np.asarray(values, dtype=np.float64))
        _check(self.x)
        self.log_x = log_x = np.log(self.x)
        self.size = np.arange(len(log_x), 1, -1)
        # A sum of non-negative gaps keeps the relative precision of Σ_j≥i (ln x_j - ln x_i).
        log_sums = ((log_x[1:] - log_x[:-1]) * (self.size - 1))[::-1].cumsum()[::-1]
        with np.errstate(divide="ignore", over="ignore"):
            self.slope = self.size / log_sums
            # |∂D/∂ln slope| ≤ 1/e; _evaluate loses digits of the log sum to cancellation.
            self.slack = 64 * _EPS * (1 + np.abs(log_x).max() * self.slope)

    @cached_property
    def all_distances(self) -> Floats:
        """D of all candidates, up to rounding; NaN if the slope is infinite. Only for few values: it takes a matrix."""
        return _distances(self.log_x, self.log_x[:-1], self.slope, _ranks(len(self.log_x)))

    def distances(self, candidates: NDArray[np.intp]) -> Floats:
        """D of some candidates, up to rounding; NaN if the slope is infinite.

        Args:
            candidates: descending indices, shape (candidates,).
        """
        if len(self.x) <= _SMALL:
            return self.all_distances[candidates]
        parts = [np.empty(0)]
        for start in range(0, len(candidates), _BLOCK):
            block = candidates[start : start + _BLOCK]
            first = int(block[-1])  # of the largest tail
            ranks = np.maximum(np.arange(len(self.x) - first, dtype=np.float64) - (block - first)[:, None], 0)
            ranks /= self.size[block, None]
            parts.append(_distances(self.log_x[first:], self.log_x[block], self.slope[block], ranks))
        return np.concatenate(parts)

    def at_all_ranks(self, i: int) -> float:
        """Lower bound of D of a candidate from all ranks. It uses exponentials, which are much cheaper than powers."""
        ranks = np.arange(len(self.log_x) - i) / float(self.size[i])
        with np.errstate(invalid="ignore", over="ignore"):
            model = np.exp(-self.slope[i] * (self.log_x[i:] - self.log_x[i]))
        model += ranks
        model -= 1
        return float(np.abs(model, out=model).max() - self.slack[i])

    def at_ranks(self, candidates: NDArray[np.intp], fractions: Floats) -> Floats:
        """Lower bounds of D of some candidates, from the ranks at these fractions of their tails."""
        k = self.size[candidates]
        offset = (fractions[:, None] * k).astype(np.intp)
        with np.errstate(invalid="ignore", over="ignore"):
            model = self.log_x[candidates + offset]
            model -= self.log_x[candidates]
            model *= -self.slope[candidates]
            np.exp(model, out=model)
            model += offset / k
            model -= 1
            result = np.abs(model, out=model).max(axis=0) - self.slack[candidates]
        return np.where(result > 0, result, 0.0)


def _distances(log_x: Floats, log_xmin: Floats, slope: Floats, ranks: Floats) -> Floats:
    """D of candidates, from a matrix with one row per candidate and one column per value.

    Values below xmin have an excess of 0, and count 0 in the empirical distribution: their deviation is 0.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        deviation = log_x - log_xmin[:, None]
        np.maximum(deviation, 0, out=deviation)
        deviation *= -slope[:, None]
        np.exp(deviation, out=deviation)
        deviation += ranks
        deviation -= 1
        largest: Floats = np.abs(deviation, out=deviation).max(axis=1)
    return largest


@lru_cache(maxsize=8)
def _ranks(n: int) -> Floats:
    """The empirical distribution of each tail of n values at all of them, shape (n - 1, n), read-only."""
    rank = np.arange(n) - np.arange(n - 1)[:, None]
    ranks: Floats = np.maximum(rank, 0) / np.arange(n, 1, -1)[:, None]
    ranks.flags.writeable = False
    return ranks
