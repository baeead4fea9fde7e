"""A model and its baseline, read one layer at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks import spectra
from ww_callbacks.analysis import Axes, LayerSpec, as_matrices
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


def changes(layers: Sequence[Layer], baseline: Sequence[Layer]) -> tuple[Layer, ...]:
    """Layers whose weights are the change from the baseline, for layers with matrices of the same shape in both.

    The change of weights of at most 32 bits is computed and stored in single precision.
    """
    return tuple(_change(layer, old) for layer, old in _pairs(layers, baseline))


def _change(layer: Layer, old: Layer) -> Layer:
    assert layer.spec is not None
    assert old.spec is not None
    wide = any(spec.storage_dtype.itemsize > 4 for spec in (layer.spec, old.spec))
    dtype = np.dtype(np.float64 if wide else np.float32)

    def read() -> NDArray[Any]:
        now, before = (as_matrices(each.spec, each.read()) for each in (layer, old) if each.spec and each.read)
        change: NDArray[Any] = np.subtract(now, before, dtype=dtype)
        return change

    axes = Axes((0,), (1,), (2,))
    spec = LayerSpec(layer.name, layer.kind, layer.spec.matrix_shape, dtype.name, axes, layer.role)
    return Layer(layer.name, layer.kind, spec, read, role=layer.role)


def distances(layers: Sequence[Layer], baseline: Sequence[Layer]) -> dict[str, float | None]:
    """The distance of each layer from the baseline, by name, for layers with matrices of the same shape in both.

    Two layers are in memory at a time.
    """
    return {layer.name: _distance(layer, old) for layer, old in _pairs(layers, baseline)}


def _pairs(layers: Sequence[Layer], baseline: Sequence[Layer]) -> Iterator[tuple[Layer, Layer]]:
    """Layers of the same name with matrices of the same shape."""
    before = {layer.name: layer for layer in baseline}
    for layer in layers:
        if layer.name in before and _shape(layer) == _shape(before[layer.name]) is not None:
            yield layer, before[layer.name]


def _shape(layer: Layer) -> tuple[int, ...] | None:
    return layer.spec.matrix_shape if layer.spec is not None else None


def _distance(layer: Layer, old: Layer) -> float | None:
    now, before = (as_matrices(each.spec, each.read()) for each in (layer, old) if each.spec and each.read)
    return spectra.relative_distance(now, before)


def _some(layers: Sequence[Layer], limit: int = 5) -> str:
    names = ", ".join(repr(layer.name) for layer in layers[:limit])
    return f"{names} and {len(layers) - limit} more" if len(layers) > limit else names
