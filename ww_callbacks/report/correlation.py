"""Correlation of metrics with the quality of models, with two controls."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtr

Cause = Literal["chance", "scale and depth", "scale", "shape"]
Values = Sequence[float | None]

LEVEL = 0.05
"""Significance level of a correlation; for the cause "shape", divided by the number of metrics."""
AS_WELL = 0.1
"""A control correlates as well as the metric if its r has the same sign and is at most this much smaller."""
LEFT = 0.5
"""A correlation persists at equal scale if at least this share of r is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Correlation of one metric with the quality of a series of models, and of two controls.

    A correlation that does not exist, for fewer than three models or for constant values, is None.

    Attributes:
        metric: mean of a column over the counted layers.
        n: number of models.
        pearson: r of metric and quality.
        kendall: τ-b of metric and quality: 1 for the same order, -1 for the reverse order.
        p_value: of r (two-sided, t distribution).
        shuffled_pearson: r of the same metric with all weights of each matrix shuffled; scale and depth are left.
        shuffled_kendall: τ of the shuffled weights.
        rescaled_pearson: r of the same metric with the weights of each layer scaled to rms 1; shape and depth are left.
        rescaled_kendall: τ at equal scale.
        cause: explanation of the correlation: "chance", it is not significant (p above 0.05); "scale and depth", the
            shuffled weights correlate as well; "scale", it vanishes if all layers have the same scale; "shape",
            neither control explains it, and p is below 0.05 divided by the number of metrics.
    """

    metric: str
    n: int
    pearson: float | None
    kendall: float | None
    p_value: float | None
    shuffled_pearson: float | None
    shuffled_kendall: float | None
    rescaled_pearson: float | None
    rescaled_kendall: float | None
    cause: Cause


def correlate(
    quality: Sequence[float],
    metrics: Mapping[str, Values],
    shuffled: Mapping[str, Values],
    rescaled: Mapping[str, Values],
) -> tuple[Correlation, ...]:
    """Correlate each metric and its controls with the quality.

    Args:
        quality: of each model, such as accuracy or error.
        metrics: one value per model and metric; a model without a value is left out.
        shuffled: the same metrics of the shuffled models.
        rescaled: the same metrics of the models at equal scale.

    Example:
        >>> quality, norm = [8.0, 7.0, 6.0, 5.0], {"log_norm": [1.7, 1.5, 1.4, 1.2]}
        >>> (found,) = correlate(quality, norm, shuffled=norm, rescaled={"log_norm": [1.0, 1.1, 1.2, 1.3]})
        >>> round(found.pearson, 3), found.kendall, found.rescaled_kendall, found.cause
        (0.992, 1.0, -1.0, 'scale and depth')
    """
    return tuple(
        _correlation(metric, quality, values, shuffled[metric], rescaled[metric], LEVEL / len(metrics))
        for metric, values in metrics.items()
    )


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's r; None for fewer than three points or if either side is constant.

    Example:
        >>> pearson([1, 2, 3], [2, 4, 6]), pearson([1, 2], [3, 4])
        (1.0, None)
    """
    if len(x) < 3:
        return None
    try:
        return max(-1.0, min(1.0, statistics.correlation(x, y)))
    except statistics.StatisticsError:
        return None


def kendall(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's τ-b; None for fewer than three points or if either side is constant.

    Example:
        >>> kendall([1, 2, 3, 4], [1, 2, 4, 3])
        0.6666666666666666
    """
    if len(x) < 3:
        return None
    pairs = [(i, j) for j in range(len(x)) for i in range(j)]
    signs = [(_sign(x[j] - x[i]), _sign(y[j] - y[i])) for i, j in pairs]
    untied = math.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))
    return sum(a * b for a, b in signs) / untied if untied else None


def _correlation(
    metric: str, quality: Sequence[float], values: Values, shuffled: Values, rescaled: Values, level: float
) -> Correlation:
    x, y = _known(values, quality)
    shuffled_pair, rescaled_pair = _known(shuffled, quality), _known(rescaled, quality)
    r, r_shuffled, r_rescaled = pearson(x, y), pearson(*shuffled_pair), pearson(*rescaled_pair)
    p = _p_value(r, len(x))
    return Correlation(
        metric=metric,
        n=len(x),
        pearson=r,
        kendall=kendall(x, y),
        p_value=p,
        shuffled_pearson=r_shuffled,
        shuffled_kendall=kendall(*shuffled_pair),
        rescaled_pearson=r_rescaled,
        rescaled_kendall=kendall(*rescaled_pair),
        cause="chance" if r is None or p is None else _cause(r, p, level, r_shuffled or 0.0, r_rescaled or 0.0),
    )


def _cause(r: float, p: float, level: float, shuffled: float, rescaled: float) -> Cause:
    """The cause is "shape" only if all others are ruled out, and at the stricter level."""
    towards = math.copysign(1.0, r)
    if p > LEVEL:
        return "chance"
    if shuffled * towards >= abs(r) - AS_WELL:
        return "scale and depth"
    if rescaled * towards < LEFT * abs(r):
        return "scale"
    return "shape" if p <= level else "chance"


def _p_value(r: float | None, n: int) -> float | None:
    if r is None:
        return None
    if abs(r) == 1:
        return 0.0
    return float(2 * stdtr(n - 2, -abs(r) * math.sqrt((n - 2) / (1 - r * r))))


def _known(values: Values, quality: Sequence[float]) -> tuple[list[float], list[float]]:
    """The models with a value, rounded to ten digits, so that rounding errors do not correlate with anything."""
    both = [(float(f"{value:.10g}"), each) for value, each in zip(values, quality, strict=True) if value is not None]
    return [value for value, _ in both], [each for _, each in both]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
