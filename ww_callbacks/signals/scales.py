"""The scale of layers: of one against its own past, and against that of the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ww_callbacks.report import LayerReport

DENSE = frozenset({"matrix", "convolution", "recurrent", "other"})
"""Roles of layers whose scales are comparable."""

MIN_COMPARED = 2
"""Smallest number of other layers with which the scale of a layer is compared."""


def finite(value: float | None) -> float | None:
    """The value if it is a finite number.

    Example:
        >>> finite(2.5), finite(float("nan")), finite(None)
        (2.5, None, None)
    """
    return value if value is not None and math.isfinite(value) else None


def positive(value: float | None) -> float | None:
    """The value if it is finite and larger than 0.

    Example:
        >>> positive(2.5), positive(0.0), positive(None)
        (2.5, None, None)
    """
    return value if value is not None and 0 < value < math.inf else None


def gain_of(layer: LayerReport) -> tuple[float, float] | None:
    """log10 of ‖W‖_F/√outputs: the root mean square of the outputs for independent inputs of root mean square 1.

    A report does not say which side is the outputs, so this is an interval.
    """
    norm = positive(layer.norm)
    if norm is None or not layer.M or not layer.N:
        return None
    size = math.log10(norm)
    return ((size - math.log10(layer.N)) / 2, (size - math.log10(layer.M)) / 2)


def distances(layers: Iterable[LayerReport]) -> dict[str, float]:
    """log10 of the scale of each layer divided by that of the median layer; 0 within what its shape leaves open."""
    gains = {layer.name: gain for layer in layers if layer.role in DENSE and (gain := gain_of(layer)) is not None}
    usual = medians_of_others({name: (low + high) / 2 for name, (low, high) in gains.items()}, MIN_COMPARED)
    return {
        name: low - usual[name] if low > usual[name] else min(high - usual[name], 0.0)
        for name, (low, high) in gains.items()
        if name in usual
    }


def growth_of(layer: LayerReport, first: LayerReport) -> float | None:
    """log10 of the Frobenius norm now divided by that of the first result; None if one of them is 0 or unknown."""
    norm, start = positive(layer.norm), positive(first.norm)
    return (math.log10(norm) - math.log10(start)) / 2 if norm and start else None


def fall_of(layer: LayerReport, before: LayerReport) -> float | None:
    """Fall of the Frobenius norm from the result before, divided by the norm now; negative if it rose."""
    norm, old = positive(layer.norm), positive(before.norm)
    return finite(math.sqrt(old / norm) - 1) if norm and old else None


def medians_of_others(values: Mapping[str, float], least: int) -> dict[str, float]:
    """For each name the median of the values of the others; empty if there are fewer than ``least`` others.

    Example:
        >>> medians_of_others({"a": 1.0, "b": 2.0, "c": 9.0, "d": 4.0}, 2)
        {'a': 4.0, 'b': 4.0, 'c': 2.0, 'd': 2.0}
    """
    if len(values) <= least:
        return {}
    order = sorted(values.values())
    middle = (len(order) - 1) // 2
    if len(order) % 2 == 0:  # an odd number of others: one in the middle
        low, high = order[middle], order[middle + 1]
        return {name: high if value <= low else low for name, value in values.items()}
    centre = order[middle]
    above, below = (centre + order[middle + 1]) / 2, (order[middle - 1] + centre) / 2
    around = (order[middle - 1] + order[middle + 1]) / 2
    return {name: around if value == centre else above if value < centre else below for name, value in values.items()}
