"""When each policy would have ended a recorded run, and the consequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recording import Recording
from scipy.stats import beta, t

from ww_callbacks.signals.stalled import is_stalled
from ww_callbacks.signals.stop import AUTO, Metric, StopRules

STILL_IMPROVING = 0.99
"""The validation loss was still improving if it later falls below this share of its minimum so far."""


@dataclass(frozen=True)
class Stop:
    """Where a policy ends a run: index of the result, and the rule (empty for validation stopping)."""

    position: int
    rule: str = ""


def spectral_stop(recording: Recording, rules: StopRules, has_metric: bool = True) -> Stop | None:
    """Where our rules end a run.

    Args:
        recording: of the run.
        rules: the rules.
        has_metric: whether the validation loss is recorded for "auto".
    """
    reports, values = list(recording.history()), known(recording.losses["val_loss"])
    rates = list(zip(recording.steps, known(recording.losses.get("rate", [])), strict=False))
    asks = rules.and_monitor is not None and (has_metric or rules.and_monitor != AUTO)
    for end in range(1, len(reports) + 1):
        verdict = rules.verdict(reports[:end], Metric("val_loss", values[:end]) if asks else None, rates[:end])
        if verdict["stop"]:
            return Stop(end - 1, verdict["rule"])
    return None


def loss_stop(recording: Recording, name: str, patience: int) -> Stop | None:
    """Where stopping on a loss ends a run.

    Args:
        recording: of the run.
        name: of the loss.
        patience: number of results without a new smallest loss.
    """
    values = known(recording.losses[name])
    return next((Stop(end) for end in range(len(values)) if is_stalled(values[: end + 1], patience)), None)


def is_false_alarm(recording: Recording, position: int) -> bool:
    """Whether the validation loss was still improving at the stop."""
    values = known(recording.losses["val_loss"])
    return min(values[position:]) < STILL_IMPROVING * min(values[: position + 1])


def binomial_interval(hits: int, size: int) -> tuple[float, float]:
    """95 % interval of a proportion (Clopper and Pearson)."""
    low = float(beta.ppf(0.025, hits, size - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, size - hits)) if hits < size else 1.0
    return low, high


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (Student's t); the width is nan for one value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, float(t.ppf(0.975, len(values) - 1)) * math.sqrt(variance / len(values))


def known(values: Sequence[float | None]) -> list[float]:
    """Recorded values as numbers; infinity for those that are missing or were not finite."""
    return [math.inf if value is None else value for value in values]
