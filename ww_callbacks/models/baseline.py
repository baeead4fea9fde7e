"""A model and its baseline, read one layer at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis import LayerSpec, as_matrices
from ww_callbacks.analysis.change import pair_spec
from ww_callbacks.printable import quoted
from ww_callbacks.weights import Layer

_log = logging.getLogger("ww_callbacks")


def layers_in_both(layers: Sequence[Layer], baseline: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers of the baseline with the name of an analysed layer, in the baseline's order.

    Layers of the baseline that the model does not have are named in a log message.

    Raises:
        ValueError: there are none.
    """
    names = {layer.name for layer in layers}
    analysed = {layer.name for layer in layers if layer.spec is not None}
    found = tuple(layer for layer in baseline if layer.name in analysed)
    if analysed and not found:
        raise ValueError(
            "baseline: no layer has the name of an analysed layer of the model; "
            f"it has {_some(baseline)}, the model {_some(layers)}"
        )
    gone = [layer for layer in baseline if layer.spec is not None and layer.name not in names]
    if gone:
        _log.warning("the baseline has layers that the model does not have: %s", _some(gone))
    return found


def pairs(layers: Sequence[Layer], baseline: Sequence[Layer]) -> tuple[Layer, ...]:
    """Layers with the weights of the model and of the baseline, for those with matrices of the same shape in both.

    Their analysis is :func:`ww_callbacks.analysis.change.analyze_change`.
    """
    return tuple(_pair(layer, old) for layer, old in _pairs(layers, baseline))


def _pair(layer: Layer, old: Layer) -> Layer:
    assert layer.spec is not None
    assert old.spec is not None
    spec = pair_spec(layer.spec, old.spec)
    return Layer(layer.name, layer.kind, spec, partial(_read, spec, layer, old), role=layer.role)


def _read(spec: LayerSpec, *layers: Layer) -> NDArray[Any]:
    both = np.empty(spec.shape, spec.storage_dtype)
    for target, layer in zip(both, layers, strict=True):
        assert layer.spec is not None
        assert layer.read is not None
        target[...] = as_matrices(layer.spec, layer.read())
    return both


def _pairs(layers: Sequence[Layer], baseline: Sequence[Layer]) -> Iterator[tuple[Layer, Layer]]:
    """Layers of the same name with matrices of the same shape."""
    before = {layer.name: layer for layer in baseline}
    for layer in layers:
        if layer.name in before and _shape(layer) == _shape(before[layer.name]) is not None:
            yield layer, before[layer.name]


def _shape(layer: Layer) -> tuple[int, ...] | None:
    return layer.spec.matrix_shape if layer.spec is not None else None


def _some(layers: Sequence[Layer], limit: int = 5) -> str:
    names = ", ".join(quoted(layer.name) for layer in layers[:limit])
    return f"{names} and {len(layers) - limit} more" if len(layers) > limit else names
