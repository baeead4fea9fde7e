"""Distance between the density of a spectrum and the Marchenko-Pastur law, as a function of σ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ww_callbacks.spectra.types import Floats

_BANDWIDTH = 0.1
_GRID = 1000
_MIN_DENSITY = 0.01
_PENALTY = 1000.0**2
_BLOCKS = 16
"""More blocks give closer bounds, which take longer."""
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Loss:
    """Squared distance between a density and a model as a function of σ.

    Attributes:
        at: the distance at one σ.
        lower_bounds: lower bounds of the distances at many σ, shape (n,) for σ of shape (n,). They take as long as
            about twenty distances.
    """

    at: Callable[[float], float]
    lower_bounds: Callable[[Floats], Floats]

    def smallest(self, sigmas: Floats) -> tuple[float, float]:
        """The smallest distance, and the first of some σ with this distance.

        The result is exact: lower bounds decide which distances are computed, as a rule two or three of 200.

        Args:
            sigmas: shape (n,), n ≥ 1.
        """
        bounds = self.lower_bounds(sigmas)
        best = (math.inf, len(sigmas))
        for i in np.argsort(bounds, kind="stable").tolist():
            if bounds[i] > best[0]:
                break
            best = min(best, (self.at(float(sigmas[i])), i))
        return best[0], float(sigmas[best[1]])


def density_loss(values: Floats, Q: float) -> Loss:
    """Distance between the kernel density estimate and f(x) = Q √((λ₊ - x)(x - λ₋))/(2π σ² x), λ± = σ²(1 ± 1/√Q)².

    Args:
        values: eigenvalues ≥ 0 with mean 1, ascending, shape (n,).
        Q: N/M > 1.

    Raises:
        ValueError: the density is below 0.01 everywhere.
    """
    grid, density = _kernel_density(values)
    mode, end = float(grid[np.argmax(density)]), float(grid[-1])
    inverse = np.divide(Q / (2 * np.pi), grid, out=np.zeros_like(grid), where=grid > 0)
    above, below = (1 + math.sqrt(1 / Q)) ** 2, (1 - math.sqrt(1 / Q)) ** 2
    penalty = _PENALTY * len(grid)
    model, factor = np.empty((2, len(grid)))

    def at(sigma: float) -> float:
        variance = sigma**2
        upper, lower = variance * above, variance * below
        if upper < mode or upper > end or lower > mode:
            return penalty
        np.subtract(upper, grid, out=model)
        np.multiply(model, np.subtract(grid, lower, out=factor), out=model)
        return _squared_distance(model, np.divide(inverse, variance, out=factor), density)

    def lower_bounds(sigmas: Floats) -> Floats:
        variance = np.square(sigmas)
        upper, lower = variance * above, variance * below
        bounds = np.minimum(_lower_bounds(grid, density, inverse, 1 / variance, lower, upper), penalty)
        rounding = 8 * _EPS
        outside = (upper < mode * (1 - rounding)) | (upper > end * (1 + rounding)) | (lower > mode * (1 + rounding))
        bounds[outside] = penalty
        return bounds

    return Loss(at, lower_bounds)


def circle_loss(singular: Floats) -> Loss:
    """Distance between the kernel density estimate and the quarter circle √(4σ² - s²)/(πσ²), beyond the kernel width.

    Args:
        singular: singular values ≥ 0, ascending, shape (n,).

    Raises:
        ValueError: the density is below 0.01 everywhere.
    """
    grid, density = _kernel_density(singular)
    inside = grid >= _BANDWIDTH
    grid, density = grid[inside], density[inside]
    squares = np.square(grid)
    model = np.empty_like(grid)

    def at(sigma: float) -> float:
        np.subtract(4 * sigma**2, squares, out=model)
        return _squared_distance(model, 1 / (np.pi * sigma**2), density)

    def lower_bounds(sigmas: Floats) -> Floats:
        scale = 1 / (np.pi * np.square(sigmas))
        return _lower_bounds(grid, density, np.ones_like(grid), scale, -2 * sigmas, 2 * sigmas)

    return Loss(at, lower_bounds)


def _squared_distance(radicand: Floats, factor: Floats | float, density: Floats) -> float:
    """Σ (factor·√max(radicand, 0) - density)². ``radicand`` is overwritten."""
    np.maximum(radicand, 0.0, out=radicand)
    np.sqrt(radicand, out=radicand)
    np.multiply(radicand, factor, out=radicand)
    np.subtract(radicand, density, out=radicand)
    return float(radicand.dot(radicand))


def _lower_bounds(grid: Floats, density: Floats, weight: Floats, scale: Floats, lower: Floats, upper: Floats) -> Floats:
    """Lower bounds of Σ (scale·weight·√max(q, 0) - density)² over the grid, with q = (upper - x)(x - lower).

    The squares are expanded. Then only Σ w √q, w = weight·density, is not a sum of powers of x. It is at most
    √(Σ w · Σ w q) over each block of the grid (Cauchy-Schwarz). The sums over blocks are differences of cumulative
    sums, so that the work per curve depends on the number of blocks only. Rounding errors are bounded as well.

    Args:
        grid: x ≥ 0, ascending, shape (points,).
        density: density at x, ≥ 0, shape (points,).
        weight: weight at x, ≥ 0, shape (points,).
        scale: one factor for each curve, shape (curves,).
        lower: lower end of each curve, shape (curves,).
        upper: upper end of each curve, shape (curves,).
    """
    size = len(grid)
    terms, sums = np.empty((2, 3, size)), np.zeros((2, 3, size + 1))
    np.multiply(weight, density, out=terms[0, 0])
    np.square(weight, out=terms[1, 0])
    np.multiply(terms[:, 0], grid, out=terms[:, 1])
    np.multiply(terms[:, 1], grid, out=terms[:, 2])
    np.cumsum(terms, axis=2, out=sums[:, :, 1:])
    first = np.searchsorted(grid, lower, side="right")
    last = np.maximum(np.searchsorted(grid, upper), first)
    blocks = np.minimum(np.maximum(np.arange(_BLOCKS + 1)[:, None] * size // _BLOCKS, first), last)
    ends = sums[0].take(blocks, axis=1)
    crossed, squared = ends[:, 1:] - ends[:, :-1], sums[1].take(last, axis=1) - sums[1].take(first, axis=1)
    middle, product = lower + upper, lower * upper
    error = 8 * (size + 16) * _EPS
    sizes = middle * sums[:, 1, -1:] + np.abs(product) * sums[:, 0, -1:] + sums[:, 2, -1:]
    q = middle * crossed[1] - product * crossed[0] - crossed[2]
    np.maximum(q, 0, out=q)
    q += error * sizes[0]
    q *= crossed[0] + error * sums[0, 0, -1]
    overlap = np.sqrt(q, out=q).sum(axis=0)
    # Because of rounding, the points next to both ends may be on the other side of them.
    overlap += 2 * float(terms[0, 0].max(initial=0.0)) * math.sqrt(error) * upper
    model = np.square(scale) * (middle * squared[1] - product * squared[0] - squared[2])
    norm, cross = float(density @ density), 2 * scale * overlap
    bounds: Floats = norm - cross + model - error * (norm + cross + np.square(scale) * sizes[1])
    return bounds


def _kernel_density(x: Floats) -> tuple[Floats, Floats]:
    """Triangular kernel density estimate of ascending values: the (grid, density) points above ``_MIN_DENSITY``."""
    grid = np.linspace(0, x[-1] + 0.5, _GRID)
    scaled = grid / _BANDWIDTH
    sums = np.zeros(len(x) + 1)
    np.cumsum(x, out=sums[1:])
    left, middle, right = (x.searchsorted(ends) for ends in (grid - _BANDWIDTH, grid, grid + _BANDWIDTH))
    centre = sums.take(middle)
    density = (middle - left) * (1 - scaled)
    density += (centre - sums.take(left)) / _BANDWIDTH
    above = (right - middle) * (1 + scaled)
    above -= (sums.take(right) - centre) / _BANDWIDTH
    density += above
    density /= len(x) * _BANDWIDTH
    kept = density > _MIN_DENSITY
    if not kept.any():
        raise ValueError("values: too sparse, there is no bulk")
    return grid[kept], density[kept]
