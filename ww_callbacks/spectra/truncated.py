"""Fit of a truncated power law: a power law with an exponential cut-off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.types import Floats

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)
_MAX_ALPHA = 200.0
_OPTIONS = {"xatol": 1e-8, "fatol": 1e-12, "maxiter": 2000}


@dataclass(frozen=True, slots=True)
class TruncatedPowerLawFit:
    """A density proportional to x^-alpha · exp(-Lambda x) for x ≥ xmin.

    Attributes:
        alpha: exponent ≥ 0, may be below 1; the tail is exponential if it is 0.
        Lambda: rate ≥ 0 of the exponential cut-off, in inverse units of x.
        sigma: asymptotic standard error of alpha; None if alpha is at the limit of its range or the information
            matrix is singular.
        D: Kolmogorov-Smirnov distance between tail and fit.
        log_likelihood: Σ ln p(x).
    """

    alpha: float
    Lambda: float
    sigma: float | None
    D: float
    log_likelihood: float


def fit_truncated_power_law(values: NDArray[np.floating], xmin: float) -> TruncatedPowerLawFit:
    """Maximum-likelihood fit of a truncated power law to the values ≥ xmin.

    With u = x/xmin and l = Lambda·xmin the density is u^-alpha exp(-l u)/Z, Z = ∫₁^∞ u^-alpha exp(-l u) du. alpha
    and l maximise the likelihood subject to alpha ≥ 0 and l ≥ 0. Lambda = 0 is the power law. xmin is not fitted: use
    the xmin from :func:`fit_power_law` to compare the two fits.

    Sources: Clauset, Shalizi and Newman (2009), table 2.1; Martin and Mahoney (2021), on its use for layers with a
    small alpha.

    Args:
        values: positive numbers, shape (n,), in any order. Values below xmin are ignored.
        xmin: start of the tail.

    Raises:
        ValueError: ``xmin`` is not positive and finite, or ``values`` has fewer than three distinct values ≥ xmin.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).pareto(1.5, 4000) + 1.0
        >>> cut = x[np.random.default_rng(1).random(4000) < np.exp(-0.1 * x)]
        >>> fit = fit_truncated_power_law(cut, 1.0)
        >>> 2.1 < fit.alpha < 2.8, 0.05 < fit.Lambda < 0.2
        (True, True)
    """
    from scipy.optimize import minimize  # slow to import, and not needed by default

    if not (math.isfinite(xmin) and xmin > 0):
        raise ValueError(f"xmin: expected a finite number > 0, got {xmin}")
    tail = np.sort(np.asarray(values, dtype=np.float64))
    u = tail[tail >= xmin] / xmin
    if len(np.unique(u)) < 3 or not np.isfinite(u[-1]):
        raise ValueError("values: expected at least three distinct finite numbers >= xmin")
    mean_log, mean = float(np.log(u).mean()), float(u.mean())

    def loss(p: Floats) -> float:
        return float(p[0]) * mean_log + float(p[1]) * mean + _log_z(float(p[0]), float(p[1]))

    power = min(1 + 1 / mean_log, _MAX_ALPHA) if mean_log > 0 else _MAX_ALPHA
    starts = [(power, 0.0), (max(power - 1, 0.0), 0.5 / mean)]
    limits = [(0.0, _MAX_ALPHA), (0.0, None)]
    found = [minimize(loss, start, method="Nelder-Mead", bounds=limits, options=_OPTIONS) for start in starts]
    best = min(found, key=lambda result: float(result.fun))
    alpha, rate = (float(value) for value in best.x)
    return TruncatedPowerLawFit(
        alpha=alpha,
        Lambda=rate / xmin,
        sigma=_sigma(alpha, rate, len(u)),
        D=_distance(u, alpha, rate),
        log_likelihood=-len(u) * (float(best.fun) + math.log(xmin)),
    )


def _log_z(alpha: float, rate: float) -> float:
    """Logarithm of ∫₁^∞ u^-alpha exp(-rate·u) du, infinite if the integral diverges."""
    if rate <= 0:
        return -math.log(alpha - 1) if alpha > 1 else math.inf
    return _log_integral(alpha, rate, 0.0)


def _log_integral(alpha: float, rate: float, start: float) -> float:
    """Logarithm of ∫ exp((1 - alpha)t - rate·eᵗ) dt from ``start`` to infinity, with t = ln u."""
    end = _negligible_from(alpha, rate, start)
    t = start + (_NODES + 1) * (end - start) / 2
    exponent = (1 - alpha) * t - rate * np.exp(t)
    largest = float(exponent.max())
    return largest + math.log(float((_WEIGHTS * np.exp(exponent - largest)).sum()) * (end - start) / 2)


def _negligible_from(alpha: float, rate: float, start: float) -> float:
    """The t at which the integrand has fallen by a factor e⁻⁴⁰ from its maximum on [start, ∞)."""
    peak = max(start, math.log((1 - alpha) / rate)) if alpha < 1 else start
    top = (1 - alpha) * peak - rate * math.exp(peak)
    low, high = peak, peak + 1.0
    while top - ((1 - alpha) * high - rate * math.exp(min(high, 700.0))) < 40 and high < 700:
        low, high = high, high + 2 * (high - peak)
    for _ in range(30):
        middle = (low + high) / 2
        fallen = top - ((1 - alpha) * middle - rate * math.exp(min(middle, 700.0))) >= 40
        low, high = (low, middle) if fallen else (middle, high)
    return high


def _distance(u: Floats, alpha: float, rate: float) -> float:
    """Largest deviation of the fitted distribution from 0, 1/k, …, as for the power law."""
    if rate <= 0:
        model = 1 - u ** (1 - alpha)
    else:
        total = _log_integral(alpha, rate, 0.0)
        model = np.array([1 - math.exp(_log_integral(alpha, rate, float(t)) - total) for t in np.log(u)])
    return float(np.abs(model - np.arange(len(u)) / len(u)).max())


def _sigma(alpha: float, rate: float, size: int) -> float | None:
    """Standard error of alpha from the second derivatives of ln Z, by central differences."""
    a, b = 1e-3 * max(abs(alpha), 1.0), 1e-3 * max(rate, 1e-6)
    if not 0 < alpha < _MAX_ALPHA:
        return None
    if rate <= 2 * b:
        return (alpha - 1) / math.sqrt(size) if alpha > 1 else None

    def f(i: int, j: int) -> float:
        return _log_z(alpha + i * a, rate + j * b)

    h_aa = (f(1, 0) - 2 * f(0, 0) + f(-1, 0)) / a**2
    h_bb = (f(0, 1) - 2 * f(0, 0) + f(0, -1)) / b**2
    h_ab = (f(1, 1) - f(1, -1) - f(-1, 1) + f(-1, -1)) / (4 * a * b)
    information = h_aa - h_ab**2 / h_bb if h_bb > 0 else 0.0
    return 1 / math.sqrt(size * information) if information > 0 else None
