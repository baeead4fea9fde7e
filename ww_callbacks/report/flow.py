"""What the layers say together: alpha against depth, and one scale against the others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ww_callbacks.report.layer import LayerReport

OUTLYING = 3.5
"""Robust standard deviations from the median beyond which a value is an outlier (Iglewicz and Hoaglin)."""
LEAST_COLLAPSE = 0.1
"""Layers whose change of log10 λ_max is this near to that of the others (a factor of 1.26) are never collapsed."""
LEAST_JUDGED = 3
"""Minimum number of layers with a changed λ_max to estimate how much such changes differ."""
LEAST_STILL = 5
"""Minimum number of layers to judge one or two that changed while the others did not."""

_LEAST_INSIDE = 8
_CRITICAL = (
    (3, 22.5),
    (4, 7.0),
    (5, 8.1),
    (6, 5.6),
    (7, 6.0),
    (8, 5.0),
    (9, 6.1),
    (12, 6.5),
    (16, 6.1),
    (30, 5.9),
    (50, 6.2),
    (100, 6.8),
    (200, 7.7),
    (math.inf, 9.2),
)
"""(up to this many values, critical |z|). The largest |z| is beyond it with a probability of at most 5 % for Gaussian
noise and about 10 % for Student-t noise (5 degrees of freedom). Simulated with 5,000 to 60,000 samples per size."""


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
        z: difference from the median change in robust standard deviations.
        collapsed: whether the layer has changed its scale unlike the other layers; None if too few layers changed.
    """

    name: str
    change: float
    z: float
    collapsed: bool | None


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
    fitted = [(layer.name, layer.alpha) for layer in layers if layer.is_fitted and layer.alpha is not None]
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
    excluded from both medians, which are computed again as long as layers are excluded and eight remain, so that many
    collapsed layers do not mask each other. A layer is collapsed if ``|z|`` is beyond a critical value and Δ is at
    least 0.1 away from the median. The critical value depends on the number of layers. On Gaussian noise, at most 5 %
    of the models have a layer beyond it. Published scale collapses have both signs.

    Layers with the same λ_max as before were not trained and are never collapsed. They do not count if at least three
    layers changed. If one or two of at least five layers changed, the mean absolute deviation over all replaces the
    median one, which is zero, and the critical value is 3.5. With fewer layers ``collapsed`` is None.

    Source: Iglewicz and Hoaglin, *How to detect and handle outliers* (1993), for the score. The critical values are
    simulated.

    Args:
        layers: the model now, in model order.
        baseline: the same model earlier; layers are matched by name.

    Returns:
        One entry per layer with λ_max in both, in model order.

    Example:
        >>> def model(**scales):
        ...     return [LayerReport(name=n, kind="Linear", log_spectral_norm=s) for n, s in scales.items()]
        >>> changes = scale_collapse(model(a=0.05, b=0.1, c=-0.1, d=1.5), model(a=0.0, b=0.0, c=0.0, d=0.0))
        >>> [change.name for change in changes if change.collapsed]
        ['d']
    """
    before = {layer.name: layer.log_spectral_norm for layer in baseline}
    changes = {
        layer.name: layer.log_spectral_norm - old
        for layer in layers
        if layer.role != "adapter"
        and layer.log_spectral_norm is not None
        and (old := before.get(layer.name)) is not None
    }
    values = list(changes.values())
    moved = [value for value in values if value != 0]
    few = len(moved) < LEAST_JUDGED
    centre, spread, critical = _noise(values if few else moved)
    judged = not few or len(values) >= LEAST_STILL
    result = []
    for name, value in changes.items():
        z = (value - centre) / spread if spread else 0.0
        beyond = value != 0 and abs(z) > critical and abs(value - centre) >= LEAST_COLLAPSE
        result.append(ScaleChange(name, value, z, beyond if judged else None))
    return tuple(result)


def _noise(values: Sequence[float]) -> tuple[float, float, float]:
    """Median and robust standard deviation of the values without outliers, and the critical |z|."""
    inside = list(values)
    critical = next(value for size, value in _CRITICAL if len(inside) <= size)
    centre, spread = _centre(inside)
    if inside and inside.count(centre) > len(inside) / 2:
        critical = OUTLYING
    while True:
        nearer = [value for value in inside if abs(value - centre) <= OUTLYING * spread]
        if len(nearer) == len(inside) or len(nearer) < _LEAST_INSIDE or not _centre(nearer)[1]:
            return centre, spread, critical
        inside = nearer
        centre, spread = _centre(inside)


def _centre(values: Sequence[float]) -> tuple[float, float]:
    """Median and robust standard deviation; the mean deviation counts if more than half of the values are equal."""
    if not values:
        return 0.0, 0.0
    centre = statistics.median(values)
    deviations = [abs(value - centre) for value in values]
    return centre, 1.4826 * statistics.median(deviations) or 1.2533 * statistics.fmean(deviations)
