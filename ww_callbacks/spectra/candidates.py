"""Candidates for xmin and how well each fits, to measure how much alpha depends on the choice of xmin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.power_law import PowerLawFit, Tails
from ww_callbacks.spectra.types import Floats

RESOLUTION = 64
"""Tails larger than twice this differ from the next larger one by a fraction of 1/64."""

STABLE_SCALE = 0.15
"""Excess of √k·D that reduces the weight of a candidate to 1/e in :func:`stable_alpha`."""


@dataclass(frozen=True, slots=True)
class XminCandidates:
    """Power laws with different xmin, fitted to the same values. All arrays have the shape (candidates,).

    Attributes:
        alpha: exponent of each candidate.
        D: Kolmogorov-Smirnov distance of each candidate.
        tail_size: number k of values in the tail of each candidate, ascending.
        spacing: number of tail sizes that each candidate stands for: 1 if all sizes are candidates.
    """

    alpha: Floats
    D: Floats
    tail_size: NDArray[np.intp]
    spacing: Floats


def xmin_candidates(values: NDArray[np.floating], fit: PowerLawFit) -> XminCandidates:
    """Alpha and D for many values of xmin.

    Alpha and D have the formulas of :func:`fit_power_law`. All tails of up to 128 values are candidates, and so are
    all values ≥ ``fit.xmin``. Larger tails are thinned, because their neighbours hardly differ: the cost grows with n
    instead of n².

    Args:
        values: positive numbers, shape (n,), n ≥ 2, in any order.
        fit: the power law fitted to ``values``.

    Returns:
        The candidates with a finite alpha.

    Example:
        >>> import numpy as np
        >>> from ww_callbacks.spectra import fit_power_law
        >>> x = np.random.default_rng(0).pareto(2.0, 500) + 1.0
        >>> fit = fit_power_law(x)
        >>> candidates = xmin_candidates(x, fit)
        >>> best = np.argmin(candidates.D)
        >>> int(candidates.tail_size[best]) == fit.num_pl_spikes, round(candidates.alpha[best] - fit.alpha, 9)
        (True, np.float64(0.0))
    """
    return candidates_of(Tails(values), fit)


def candidates_of(tails: Tails, fit: PowerLawFit) -> XminCandidates:
    """:func:`xmin_candidates` of values whose tails are known."""
    n = len(tails.x)
    sizes = _tail_sizes(n, n - int(tails.x.searchsorted(fit.xmin)))
    spacing = np.gradient(sizes.astype(np.float64)) if len(sizes) > 1 else np.ones(1)
    slope = tails.slope[n - sizes]
    kept = np.isfinite(slope)
    if not kept.all():
        sizes, slope, spacing = sizes[kept], slope[kept], spacing[kept]
    return XminCandidates(1 + slope, tails.distances(n - sizes), sizes, spacing)


def stable_alpha(candidates: XminCandidates) -> float:
    """Mean of alpha over the candidates for xmin, weighted by how well they fit.

    ``1 + 1 / Σ w_i/(alpha_i - 1)``, with one term for each tail size k_i and weights w_i proportional to
    ``exp(-√k_i·(D_i - min D)/0.15)``. It does not jump when another xmin becomes the best, as alpha does. The mean is
    taken of 1/(alpha_i - 1), which is the mean of ln(x_j/xmin) over the tail, because that is unbiased at a known xmin,
    and because short tails with a very large alpha then have little effect.

    Source: own definition. ``benchmarks/interval_stability.py`` compares bias and scatter with those of alpha.

    Args:
        candidates: the candidates for xmin, at least one.

    Raises:
        ValueError: there is no candidate.

    Example:
        >>> import numpy as np
        >>> from ww_callbacks.spectra import fit_power_law
        >>> x = np.random.default_rng(0).pareto(2.0, 2000) + 1.0  # alpha = 3
        >>> 2.8 < stable_alpha(xmin_candidates(x, fit_power_law(x))) < 3.2
        True
    """
    if not len(candidates.D):
        raise ValueError("candidates: expected at least one, got none; all values may be equal")
    excess = (candidates.D - candidates.D.min()) * np.sqrt(candidates.tail_size) / STABLE_SCALE
    weight = candidates.spacing * np.exp(-excess)
    return float(1 + weight.sum() / (weight / (candidates.alpha - 1)).sum())


@lru_cache(maxsize=64)
def _thinned(n: int) -> NDArray[np.intp]:
    """Sizes of tails of up to n values, read-only."""
    sizes = [2]
    while sizes[-1] < n:
        sizes.append(min(sizes[-1] + max(1, sizes[-1] // RESOLUTION), n))
    result = np.array(sizes, dtype=np.intp)
    result.flags.writeable = False
    return result


def _tail_sizes(n: int, best: int) -> NDArray[np.intp]:
    sizes = _thinned(n)
    place = int(np.searchsorted(sizes, best))
    return sizes if place < len(sizes) and sizes[place] == best else np.insert(sizes, place, best)
