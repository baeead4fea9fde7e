"""Layers of a mapping name → array."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.report import Skip
from ww_callbacks.weights.layer import Layer, array_layer, dimensions_skip


def layers_of_mapping(arrays: Mapping[str, Any]) -> tuple[Layer, ...]:
    """One layer per entry: a matrix (two-dimensional) or a kernel in torch's order (out, in, height, width).

    Torch tensors are read as stored, other values through ``numpy.asarray``.

    Raises:
        TypeError: a name is not a string.
    """
    return tuple(_layer(name, value) for name, value in arrays.items())


def _layer(name: str, value: Any) -> Layer:
    if not isinstance(name, str):
        raise TypeError(f"model: expected names that are strings, got {name!r}")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        from ww_callbacks.weights.torch import tensor_layer

        return tensor_layer(name, _kind(value.ndim), value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        return Layer.skipped(name, "array", Skip("unreadable", f"not an array ({error})"))
    if array.dtype.kind not in "fiub":
        return Layer.skipped(name, _kind(array.ndim), Skip("unsupported_dtype", str(array.dtype)))
    if array.ndim not in (2, 4):
        return Layer.skipped(name, _kind(array.ndim), dimensions_skip(array.ndim))
    return array_layer(name, _kind(array.ndim), array.shape, array.dtype, partial(_same, array))


def _kind(ndim: int) -> str:
    return {2: "matrix", 4: "kernel"}.get(ndim, "array")


def _same(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return array
