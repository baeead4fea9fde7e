"""Choosing layers of a model by the patterns that a user writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ww_callbacks.patterns import matching
from ww_callbacks.weights.matrix import Layer

LEFT_OUT = "left out by layers="


def select_layers(layers: Sequence[Layer], patterns: Sequence[str] | None) -> tuple[Layer, ...]:
    """The same layers; those that the patterns do not keep stay listed as skipped.

    Raises:
        ValueError: a pattern matches no layer.
    """
    if patterns is None:
        return tuple(layers)
    kept = matching([layer.name for layer in layers], patterns, "layers")
    return tuple(
        layer if layer.name in kept else replace(layer, spec=None, read=None, reason=LEFT_OUT) for layer in layers
    )
