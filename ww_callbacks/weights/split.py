"""Fused projections: split a matrix along its outputs into parts of given sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

from numpy.typing import NDArray

from ww_callbacks.patterns import matching
from ww_callbacks.weights.layer import Layer
from ww_callbacks.weights.tensor import sliced

Split = Mapping[str, int | Sequence[int]]
"""Pattern of layer names → number of equal parts, or the size of each."""


def divided(layer: Layer, parts: Mapping[str, int], axis: int | None = None) -> tuple[Layer, ...]:
    """The parts of a layer along one axis, in stored order.

    Args:
        layer: a layer that is analysed.
        parts: suffix of the name → length along the axis; the lengths add up to that of the axis.
        axis: stored axis; None for the axis of the outputs.
    """
    spec, read = layer.spec, layer.read
    if spec is None or read is None:
        return (layer,)
    axis = spec.axes.outputs[0] if axis is None else axis
    starts = accumulate(parts.values(), initial=0)
    result = []
    for (suffix, size), start in zip(parts.items(), starts, strict=False):
        name, part = f"{layer.name}.{suffix}", _narrowed(read, axis, start, size)
        shape = (*spec.shape[:axis], size, *spec.shape[axis + 1 :])
        spec_of_part = replace(spec, name=name, shape=shape)
        result.append(replace(layer, name=name, spec=spec_of_part, read=part, send=getattr(part, "send", None)))
    return tuple(result)


def _narrowed(read: Callable[[], NDArray[Any]], axis: int, start: int, size: int) -> Callable[[], NDArray[Any]]:
    """A reader of one part; reads only that part if the given reader supports it."""
    narrow = getattr(read, "narrow", None)
    result: Callable[[], NDArray[Any]] = (
        narrow(axis, start, size) if narrow is not None else partial(sliced, read, axis, start, size)
    )
    return result


def split_layers(layers: Sequence[Layer], rules: Split | None) -> tuple[Layer, ...]:
    """Split the layers that match a rule along their outputs; the first matching rule counts.

    If the layer class is inferred (kind "… (inferred)"), the longer side of a fused matrix is taken as its outputs.
    Layers that are not analysed and low-rank adapters are returned unchanged.

    Args:
        layers: all layers of a model.
        rules: pattern of names → number of equal parts, or the size of each.

    Raises:
        ValueError: a pattern matches no layer, or the sizes do not fit a layer that it matches.

    Example:
        >>> import numpy as np
        >>> from ww_callbacks.weights import find_layers
        >>> layers = find_layers({"block.qkv": np.zeros((300, 100))})
        >>> [(layer.name, layer.spec.shape) for layer in split_layers(layers, {"*.qkv": 3})]
        [('block.qkv.0', (100, 100)), ('block.qkv.1', (100, 100)), ('block.qkv.2', (100, 100))]
    """
    if not rules:
        return tuple(layers)
    names = [layer.name for layer in layers]
    chosen: dict[str, int | Sequence[int]] = {}
    for pattern, sizes in rules.items():
        for name in matching(names, [pattern], "split"):
            chosen.setdefault(name, sizes)
    return tuple(
        part for layer in layers for part in (_apart(layer, chosen[layer.name]) if layer.name in chosen else (layer,))
    )


def _apart(layer: Layer, sizes: int | Sequence[int]) -> tuple[Layer, ...]:
    if layer.spec is None or layer.spec.factors:
        return (layer,)
    if len(layer.spec.axes.outputs) != 1:
        raise ValueError(f"split: the outputs of {layer.name!r} span several axes, it cannot be split")
    axis = _fused_axis(layer)
    length = layer.spec.shape[axis]
    each = [length // sizes] * sizes if isinstance(sizes, int) else list(sizes)
    if sum(each) != length:
        raise ValueError(f"split: {layer.name!r} has {length} outputs, which {sizes!r} does not divide")
    return divided(layer, {str(i): size for i, size in enumerate(each)}, axis)


def _fused_axis(layer: Layer) -> int:
    assert layer.spec is not None
    (rows,), columns, shape = layer.spec.axes.outputs, layer.spec.axes.inputs, layer.spec.shape
    if layer.is_inferred and len(columns) == 1 and shape[columns[0]] > shape[rows]:
        return columns[0]
    return rows
