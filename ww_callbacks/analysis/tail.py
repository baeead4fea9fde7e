"""Metrics of the power-law tail."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ww_callbacks import spectra
from ww_callbacks.analysis.flat import flat
from ww_callbacks.analysis.settings import Settings
from ww_callbacks.report import NullVerdict, Skip, TailWarning
from ww_callbacks.spectra.candidates import candidates_of
from ww_callbacks.spectra.power_law import Tails, best_tail
from ww_callbacks.spectra.short import SHORT, SHORTEST
from ww_callbacks.spectra.types import Floats

MIN_RELIABLE_EVALS = 50
MIN_RELIABLE_TAIL = 10
OVER_TRAINED, UNDER_TRAINED = 2.0, 6.0


def tail_columns(positive: Floats, values: Floats, null: NullVerdict, side: int, settings: Settings) -> dict[str, Any]:
    """All metrics derived from the power law fitted to a layer's spectrum.

    Args:
        positive: eigenvalues above the rounding error, ascending. In single precision the few below it may be
            non-zero, so they count in the size of the upper half, from which alpha_hill is computed.
        values: all eigenvalues.
        null: whether a tail has formed ("arranged").
        side: larger side of the matrices.
        settings: analysis settings.
    """
    tails = Tails(positive)
    power = tail_of(tails)
    if not math.isfinite(power.alpha):
        return Skip("equal_eigenvalues", "almost all eigenvalues are equal").columns
    if len(positive) < SHORT:
        return _short_columns(positive, values, power, null)
    fit = flat(power) | _truncated_columns(positive, power, settings)
    candidates = candidates_of(tails, power)
    sure = _interval(positive, power, candidates, settings)
    low, high = sure if settings.fit == "PL" else _truncated_interval(fit, power)
    reliable = null == "arranged" and len(values) >= MIN_RELIABLE_EVALS and power.num_pl_spikes >= MIN_RELIABLE_TAIL
    return (
        fit
        | _derived_columns(positive, values, power, fit["alpha"])
        | {
            "alpha_low": low,
            "alpha_high": high,
            "alpha_stable": spectra.stable_alpha(candidates) if settings.fit == "PL" else None,
            "alpha_hill": _hill(positive if settings.precision == "float64" else np.maximum(values, positive[0])),
            "finger_shift": _finger_shift(positive, power),
            "reliable": reliable,
            "warning": _warning(*sure, reliable, null, len(values)),
        }
        | _requested_columns(positive, power, side, settings)
    )


def tail_of(tails: Tails) -> spectra.PowerLawFit:
    """The power law fitted to a spectrum, with the method for its number of eigenvalues."""
    return best_tail(tails) if len(tails.x) >= SHORT else spectra.fit_short_power_law(tails.x)


def _short_columns(positive: Floats, values: Floats, power: spectra.PowerLawFit, null: NullVerdict) -> dict[str, Any]:
    """The metrics of a spectrum of 8 to 19 eigenvalues. Those that need a search over xmin have no value."""
    low, high = spectra.short_interval(power, len(positive))
    rest = positive[:-1]
    shifted = spectra.fit_short_power_law(rest).alpha if len(rest) >= SHORTEST and rest[0] < rest[-1] else math.inf
    return (
        flat(power)
        | _derived_columns(positive, values, power, power.alpha)
        | {
            "alpha_low": low,
            "alpha_high": high,
            "finger_shift": shifted - power.alpha,
            "reliable": False,
            "warning": _warning(low, high, False, null, len(positive)),
        }
    )


def _derived_columns(positive: Floats, values: Floats, power: spectra.PowerLawFit, alpha: float) -> dict[str, Any]:
    """The metrics that follow from an alpha and the eigenvalues."""
    detX_num = spectra.det_x_size(values)
    return {
        "alpha_weighted": alpha * math.log10(positive[-1]),
        "log_alpha_norm": spectra.log_alpha_norm(positive, alpha),
        "detX_num": detX_num,
        "ERG_gap": detX_num - power.num_pl_spikes,
    }


def _truncated_columns(positive: Floats, power: spectra.PowerLawFit, settings: Settings) -> dict[str, Any]:
    if settings.fit == "PL":
        return {}
    try:
        fit = spectra.fit_truncated_power_law(positive, power.xmin)
    except ValueError:
        return {}
    return {"alpha": fit.alpha, "Lambda": fit.Lambda, "sigma": fit.sigma, "D": fit.D}


def _interval(
    positive: Floats, power: spectra.PowerLawFit, candidates: spectra.XminCandidates, settings: Settings
) -> tuple[float | None, float | None]:
    """Confidence interval of the power law's alpha. The warnings are defined by it."""
    if settings.interval == "bootstrap":
        try:
            return spectra.bootstrap_interval(positive, power, seed=settings.seed)
        except ValueError:
            return None, None
    return spectra.near_tied_interval(power, candidates)


def _truncated_interval(fit: dict[str, Any], power: spectra.PowerLawFit) -> tuple[float | None, float | None]:
    if fit["sigma"] is None:
        return None, None
    low, high = spectra.asymptotic_interval(fit["alpha"], fit["sigma"], power.num_pl_spikes)
    return max(low, 0.0), high


def _requested_columns(positive: Floats, power: spectra.PowerLawFit, side: int, settings: Settings) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if settings.precision == "float32":
        bound = spectra.float32_error(power.xmax, side, 1)
        result["alpha_error"] = spectra.rounding_shift(positive, power, bound, seed=settings.seed)
    if settings.gof and power.alpha > 1:
        result["gof_pvalue"] = spectra.goodness_of_fit(positive, power, seed=settings.seed)
    if settings.compare:
        try:
            verdicts = [test.verdict for test in spectra.compare_alternatives(positive, power)]
        except ValueError:  # the tail is too short
            verdicts = ["undecided"] * 3
        result |= dict(zip(("vs_exponential", "vs_lognormal", "vs_truncated"), verdicts, strict=True))
    return result


def _finger_shift(positive: Floats, power: spectra.PowerLawFit) -> float | None:
    rest = positive[:-1]
    return spectra.fit_power_law(rest).alpha - power.alpha if rest[0] < rest[-1] else None


def _warning(low: float | None, high: float | None, reliable: bool, null: NullVerdict, total: int) -> TailWarning:
    if null == "cannot be told":
        return null
    if null != "arranged":
        return "no tail"
    if reliable and high is not None and high < OVER_TRAINED:
        return "over-trained"
    return "under-trained" if low is not None and low > UNDER_TRAINED and total >= MIN_RELIABLE_EVALS else ""


def _hill(positive: Floats) -> float | None:
    try:
        return spectra.hill_alpha(positive)
    except ValueError:
        return None
