"""Likelihood-ratio tests of the power law against other distributions of the tail."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc, log_ndtr

from ww_callbacks.spectra.power_law import PowerLawFit
from ww_callbacks.spectra.truncated import fit_truncated_power_law
from ww_callbacks.spectra.types import Floats

UNDECIDED_ABOVE = 0.1
"""A test with a larger p-value is undecided."""


@dataclass(frozen=True, slots=True)
class LikelihoodRatioTest:
    """Test of the power law against one alternative on the same tail.

    Attributes:
        alternative: "exponential", "log-normal" or "truncated power law".
        log_ratio: Σ ln(p_power/p_alternative) over the tail; positive values favour the power law.
        pvalue: probability of a ratio at least this large, of either sign, if both describe the tail equally well.
        verdict: "power law", the name of the alternative, or "undecided".
    """

    alternative: str
    log_ratio: float
    pvalue: float
    verdict: str


def compare_alternatives(
    values: NDArray[np.floating], fit: PowerLawFit
) -> tuple[LikelihoodRatioTest, LikelihoodRatioTest, LikelihoodRatioTest]:
    """Test a fitted power law against an exponential, a log-normal and a truncated power law with the same xmin.

    All distributions are fitted by maximum likelihood to the values ≥ xmin. The exponential and the log-normal are
    compared by Vuong's test: the ratio divided by the standard deviation of its terms is normal if neither model is
    better. The truncated power law contains the power law, so it is never worse. Twice its gain in log-likelihood is
    compared with χ² with one degree of freedom, so the verdict is either "truncated power law" or "undecided".
    A tail of fewer than a few hundred values rarely distinguishes a log-normal from a power law.

    Sources: Clauset, Shalizi and Newman (2009), §5 and appendix C; Vuong (1989).

    Args:
        values: positive numbers, shape (n,), in any order.
        fit: the power law fitted to ``values``.

    Raises:
        ValueError: the tail has fewer than three distinct values.

    Example:
        >>> import numpy as np
        >>> from ww_callbacks.spectra import fit_power_law
        >>> x = np.random.default_rng(0).pareto(2.0, 1000) + 1.0
        >>> [test.verdict for test in compare_alternatives(x, fit_power_law(x))]
        ['power law', 'undecided', 'undecided']
    """
    tail = np.sort(np.asarray(values, dtype=np.float64))
    u = tail[tail >= fit.xmin] / fit.xmin
    truncated = fit_truncated_power_law(u, 1.0)  # first, because it validates the tail
    alpha = 1 + 1 / float(np.log(u).mean())
    power = math.log(alpha - 1) - alpha * np.log(u)
    return (
        _vuong("exponential", power, _exponential(u)),
        _vuong("log-normal", power, _log_normal(u)),
        _nested(float(power.sum()), truncated.log_likelihood),
    )


def _vuong(name: str, power: Floats, alternative: Floats) -> LikelihoodRatioTest:
    terms = power - alternative
    ratio, spread = float(terms.sum()), float(terms.std()) * math.sqrt(len(terms))
    pvalue = float(erfc(abs(ratio) / (math.sqrt(2) * spread))) if spread > 0 else 1.0
    better = "power law" if ratio > 0 else name
    return LikelihoodRatioTest(name, ratio, pvalue, better if pvalue <= UNDECIDED_ABOVE else "undecided")


def _nested(power: float, truncated: float) -> LikelihoodRatioTest:
    name = "truncated power law"
    gain = max(truncated - power, 0.0)
    pvalue = float(erfc(math.sqrt(gain)))  # χ²₁ survival at 2·gain
    return LikelihoodRatioTest(name, -gain, pvalue, name if pvalue <= UNDECIDED_ABOVE else "undecided")


def _exponential(u: Floats) -> Floats:
    rate = 1 / float((u - 1).mean())
    return math.log(rate) - rate * (u - 1)


def _log_normal(u: Floats) -> Floats:
    """Log density of the best-fitting log-normal truncated to u ≥ 1; it approaches a power law as μ → -∞."""
    from scipy.optimize import minimize  # slow to import, and not needed by default

    log_u = np.log(u)
    mean, mean_square = float(log_u.mean()), float(np.square(log_u).mean())

    def loss(p: Floats) -> float:
        mu, sd = float(p[0]), math.exp(float(p[1]))
        square = (mean_square - 2 * mu * mean + mu**2) / (2 * sd**2)
        return square + math.log(sd) + float(log_ndtr(mu / sd))

    start = (mean, 0.5 * math.log(max(mean_square - mean**2, 1e-12)))
    limits = [(-1e3 * mean, 1e3 * mean), (start[1] - 5, start[1] + 5)]
    best = minimize(loss, start, method="Nelder-Mead", bounds=limits, options={"xatol": 1e-8, "fatol": 1e-12})
    mu, sd = float(best.x[0]), math.exp(float(best.x[1]))
    constant = -math.log(sd) - 0.5 * math.log(2 * math.pi) - float(log_ndtr(mu / sd))
    return constant - log_u - np.square(log_u - mu) / (2 * sd**2)
