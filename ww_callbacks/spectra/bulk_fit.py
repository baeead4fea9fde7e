"""Fit of the Marchenko-Pastur law to the bulk of a spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.bulk import LEVEL, edge_threshold
from ww_callbacks.spectra.bulk_loss import circle_loss, density_loss
from ww_callbacks.spectra.types import Floats

_TOLERANCE = 1e-4
_MAX_STEPS = 100


@dataclass(frozen=True, slots=True)
class MarchenkoPasturFit:
    """The Marchenko-Pastur bulk fitted to a spectrum.

    Attributes:
        sigma_mp: fitted σ after scaling the mean eigenvalue to 1; 1 for independent elements.
        bulk_min: lower edge λ₋ of the bulk, in the units of the eigenvalues.
        bulk_max: upper edge λ₊.
        num_spikes: number of eigenvalues above λ₊ by more than its fluctuation.
        mp_softrank: λ₊/λ_max.
    """

    sigma_mp: float
    bulk_min: float
    bulk_max: float
    num_spikes: int
    mp_softrank: float


def marchenko_pastur(values: NDArray[np.floating], rows: int, columns: int, level: float = LEVEL) -> MarchenkoPasturFit:
    """Fit σ of the Marchenko-Pastur density to the density of a spectrum.

    The eigenvalues are scaled to mean 1. Then f(x) = Q √((λ₊ - x)(x - λ₋))/(2π σ² x), λ± = σ²(1 ± 1/√Q)², is fitted
    by least squares to a triangular kernel density estimate (width 0.1, 1000 points, densities below 0.01 ignored),
    first on a grid of σ, then by Nelder-Mead. This is WeightWatcher's procedure and gives the same σ for Q > 1; here
    the density estimate is computed only once, because it does not depend on σ. At Q = 1 the density diverges at 0.
    In that case the quarter circle √(4σ² - s²)/(πσ²) is fitted to the singular values beyond the kernel width.
    (WeightWatcher's quarter circle ends at 2 for every σ.) ``num_spikes`` counts the eigenvalues above
    :func:`edge_threshold` at the fitted σ.

    Source: Martin and Mahoney, *Implicit self-regularization in deep neural networks* (2021), §3.

    Args:
        values: eigenvalues ≥ 0 of all kernel positions, shape (n,), n ≥ 2, in any order.
        rows: rows of each matrix.
        columns: columns of each matrix.
        level: significance level of the spikes, per layer.

    Raises:
        ValueError: ``values`` is too short, negative, not finite or all zero, or ``rows`` or ``columns`` is smaller
            than 1.

    Example:
        >>> import numpy as np
        >>> W = np.random.default_rng(0).standard_normal((600, 300))
        >>> W[0, 0] += 50  # one planted spike
        >>> fit = marchenko_pastur(np.linalg.eigvalsh(W.T @ W), 600, 300)
        >>> fit.num_spikes
        1
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    if x.ndim != 1 or len(x) < 2 or not (x[0] >= 0 and 0 < x[-1] < math.inf):
        raise ValueError("values: expected at least two finite eigenvalues >= 0, not all zero")
    if min(rows, columns) < 1:
        raise ValueError(f"rows, columns: expected at least 1, got {rows} x {columns}")
    large, small = max(rows, columns), min(rows, columns)
    mean = float((x / x[-1]).sum()) / len(x) * float(x[-1])
    sigma = _fit_sigma(x / mean, large / small)
    ratio = math.sqrt(small / large)
    upper = (sigma * (1 + ratio)) ** 2 * mean
    positions = max(1, round(len(x) / small))
    threshold = edge_threshold(sigma**2 * mean / large, large, small, level / positions)
    return MarchenkoPasturFit(
        sigma_mp=sigma,
        bulk_min=(sigma * (1 - ratio)) ** 2 * mean,
        bulk_max=upper,
        num_spikes=int(np.count_nonzero(x > threshold)),
        mp_softrank=upper / float(x[-1]),
    )


def _fit_sigma(scaled: Floats, Q: float) -> float:
    loss = circle_loss(np.sqrt(scaled)) if Q == 1 else density_loss(scaled, Q)
    start = math.sqrt(scaled[-1]) / (1 + 1 / math.sqrt(Q))
    return _nelder_mead(loss.at, loss.smallest(np.arange(0.05 * start, 2.0 * start, 0.01 * start)))


def _nelder_mead(loss: Callable[[float], float], start: tuple[float, float]) -> float:
    """The minimum of a function, from one of its points (value, argument).

    The same minimum as ``scipy.optimize.fmin`` for one variable. That module takes a third of the worker's start.
    """

    def point(x: float) -> tuple[float, float]:
        return loss(x), x

    best, other = sorted((start, point(1.05 * start[1])), key=itemgetter(0))
    for _ in range(_MAX_STEPS):
        (low, x), (high, y) = best, other
        if abs(y - x) <= _TOLERANCE and high - low <= _TOLERANCE:
            break
        reflected = point(2 * x - y)
        if reflected[0] < low:
            new = min(reflected, point(3 * x - 2 * y), key=itemgetter(0))
        elif reflected[0] < high:
            new = point(1.5 * x - 0.5 * y)
            new = new if new[0] <= reflected[0] else point(x + 0.5 * (y - x))
        else:
            new = point(0.5 * x + 0.5 * y)
        best, other = sorted((best, new), key=itemgetter(0))
    return best[1]
