"""What the layers say together: alpha against depth, and one scale against the others."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ww_callbacks.report.layer import LayerReport

OUTLYING = 3.5
"""Robust standard deviations from the median beyond which a value is an outlier (Iglewicz and Hoaglin)."""


@dataclass(frozen=True, slots=True)
class CorrelationFlow:
    """Alpha as a function of depth.

    Attributes:
        names: the fitted layers in model order.
        alpha: of these layers.
        mean: of alpha.
        std: standard deviation of alpha; None for fewer than two layers.
        slope: change of alpha from the first to the last layer, by least squares; None for fewer than two layers.
    """

    names: tuple[str, ...]
    alpha: tuple[float, ...]
    mean: float | None
    std: float | None
    slope: float | None


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """Change of the scale of one layer relative to a baseline.

    Attributes:
        name: of the layer.
        change: Δ log10 λ_max.
        z: difference from the median change in robust standard deviations; beyond ±3.5 the layer has changed its scale
            unlike the other layers.
    """

    name: str
    change: float
    z: float


def correlation_flow(layers: Iterable[LayerReport]) -> CorrelationFlow:
    """Alpha as a function of depth, over the fitted layers in model order.

    Well-trained networks show a small and nearly constant alpha.

    Source: Martin, Peng and Mahoney, *Predicting trends in the quality of state-of-the-art neural networks without
    access to training or testing data* (2021).

    Args:
        layers: in model order.

    Example:
        >>> layers = [LayerReport(name=n, kind="Linear", alpha=a) for n, a in [("fc1", 2.0), ("fc2", 3.0)]]
        >>> flow = correlation_flow(layers)
        >>> flow.names, flow.mean, flow.slope
        (('fc1', 'fc2'), 2.5, 1.0)
    """
    fitted = [(layer.name, layer.alpha) for layer in layers if layer.alpha is not None]
    alpha = tuple(value for _, value in fitted)
    many = len(alpha) > 1
    depth = [index / (len(alpha) - 1) for index in range(len(alpha))] if many else []
    return CorrelationFlow(
        names=tuple(name for name, _ in fitted),
        alpha=alpha,
        mean=statistics.fmean(alpha) if alpha else None,
        std=statistics.stdev(alpha) if many else None,
        slope=statistics.linear_regression(depth, alpha).slope if many else None,
    )


def scale_collapse(layers: Iterable[LayerReport], baseline: Iterable[LayerReport]) -> tuple[ScaleChange, ...]:
    """Change of the scale of each layer relative to a baseline, compared with the other layers.

    ``z = (Δ - median Δ)/(1.4826 · median |Δ - median Δ|)`` with Δ the change of log10 λ_max. Layers beyond ±3.5 are
    excluded from both medians, which are computed again until no further layer is excluded, so that many collapsed
    layers do not mask each other. If more than half of the layers changed equally, the mean absolute deviation replaces
    the median one. Published scale collapses have both signs: use ``|z|``.

    Source: Iglewicz and Hoaglin, *How to detect and handle outliers* (1993), for the score.

    Args:
        layers: the model now, in model order.
        baseline: the same model earlier; layers are matched by name.

    Returns:
        One entry per layer with λ_max in both, in model order.

    Example:
        >>> def model(**scales):
        ...     return [LayerReport(name=n, kind="Linear", log_spectral_norm=s) for n, s in scales.items()]
        >>> changes = scale_collapse(model(a=0.0, b=0.1, c=-0.1, d=1.5), model(a=0.0, b=0.0, c=0.0, d=0.0))
        >>> [change.name for change in changes if abs(change.z) > 3.5]
        ['d']
    """
    before = {layer.name: layer.log_spectral_norm for layer in baseline}
    changes = {
        layer.name: layer.log_spectral_norm - old
        for layer in layers
        if layer.log_spectral_norm is not None and (old := before.get(layer.name)) is not None
    }
    scores = outlyingness(list(changes.values()))
    return tuple(ScaleChange(*change, z) for change, z in zip(changes.items(), scores, strict=True))


def outlyingness(values: Sequence[float]) -> list[float]:
    """Distance of each value from the median, in robust standard deviations without outliers.

    Example:
        >>> [round(z, 1) for z in outlyingness([0.0, 0.1, -0.1, 0.2, -0.2, 3.0])]
        [0.0, 0.7, -0.7, 1.3, -1.3, 20.2]
    """
    inside, scores = list(values), [0.0] * len(values)
    while inside:
        median = statistics.median(inside)
        deviations = [abs(value - median) for value in inside]
        spread = 1.4826 * statistics.median(deviations) or 1.2533 * statistics.fmean(deviations)
        if not spread:
            break
        scores = [(value - median) / spread for value in values]
        nearer = [value for value, z in zip(values, scores, strict=True) if abs(z) <= OUTLYING]
        if len(nearer) >= len(inside):
            break
        inside = nearer
    return scores
