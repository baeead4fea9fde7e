"""Layers of a mapping name → array."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.report import Skip
from ww_callbacks.weights.classes import PARAMETERS
from ww_callbacks.weights.combined import combine
from ww_callbacks.weights.layer import Layer, array_layer, dimensions_skip
from ww_callbacks.weights.state_dict import layers_of_tensors
from ww_callbacks.weights.tensor import StoredTensor

_PARAMETER_NAMES = frozenset({"weight", "bias", "kernel", "embedding", "scale", *PARAMETERS})


def layers_of_mapping(arrays: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The layers of a mapping; torch tensors are read as stored, other values through ``numpy.asarray``.

    A state dict has the layers that it has as a file. In another mapping each entry is a layer: a matrix
    (two-dimensional) or a kernel in torch's order (out, in, height, width).

    Raises:
        TypeError: a name is not a string.
    """
    for name in arrays:
        if not isinstance(name, str):
            raise TypeError(f"model: expected names that are strings, got {name!r}")
    first: dict[Any, str] = {}
    tensors = [_stored(name, value, first) for name, value in arrays.items()]
    combined = combine(tensors)
    if not is_state_dict(arrays) and combined == tensors:
        return tuple(_layer(name, value) for name, value in arrays.items())
    return layers_of_tensors(combined)


def is_state_dict(names: Iterable[str]) -> bool:
    """Whether names are those of parameters, such as "fc.weight", and not those of layers.

    Example:
        >>> is_state_dict(["fc.weight", "fc.bias"]), is_state_dict(["fc1", "fc2"])
        (True, False)
    """
    return any(name.rpartition(".")[2] in _PARAMETER_NAMES for name in names)


def _stored(name: str, value: Any, first: dict[Any, str]) -> StoredTensor:
    """An entry of a state dict."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        from ww_callbacks.weights.torch.effective import named_tensor

        return named_tensor(name, value, first)
    found = _array(value)
    if isinstance(found, Skip):
        return StoredTensor(name, np.shape(value) if isinstance(value, np.ndarray) else (), "object", skip=found)
    axes = tuple(sorted(pair for pair in zip(found.strides, found.shape, strict=True) if pair[1] != 1))
    same_as = first.setdefault((found.ctypes.data, found.dtype, axes), name)
    read = partial(_same, found)
    return StoredTensor(name, found.shape, found.dtype.name, read, same_as="" if same_as == name else same_as)


def _layer(name: str, value: Any) -> Layer:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        from ww_callbacks.weights.torch import tensor_layer

        return tensor_layer(name, _kind(value.ndim), value)
    found = _array(value)
    if isinstance(found, Skip):
        return Layer.skipped(name, "array", found)
    if found.ndim not in (2, 4):
        return Layer.skipped(name, _kind(found.ndim), dimensions_skip(found.ndim))
    return array_layer(name, _kind(found.ndim), found.shape, found.dtype, partial(_same, found))


def _array(value: Any) -> NDArray[Any] | Skip:
    """A value as an array of real numbers, or why it is none."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.nn.Module):
        problem = f"{type(value).__name__} is a module, not an array; pass it alone or in an nn.ModuleDict"
        return Skip("unreadable", problem)
    try:
        array = np.asarray(value)
    except ValueError as error:
        return Skip("unreadable", f"not an array ({error})")
    return array if array.dtype.kind in "fiub" else Skip("unsupported_dtype", str(array.dtype))


def _kind(ndim: int) -> str:
    return {2: "matrix", 4: "kernel"}.get(ndim, "array")


def _same(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return array
