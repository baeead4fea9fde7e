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
from ww_callbacks.weights.combined import combine, float8
from ww_callbacks.weights.layer import Layer, array_layer, dimensions_skip
from ww_callbacks.weights.networks import networks_in_tree
from ww_callbacks.weights.state_dict import layers_of_tensors
from ww_callbacks.weights.tensor import StoredTensor

_PARAMETER_NAMES = frozenset({"weight", "bias", "kernel", "embedding", "scale", *PARAMETERS})

_OF_JAX = ("bfloat16", *float8.TABLES)
"""Dtypes that JAX adds to numpy."""


def layers_of_mapping(arrays: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The layers of a mapping; torch tensors are read as stored, other values through ``numpy.asarray``.

    A state dict has the layers that it has as a file, and so has a tree of nested mappings, such as the parameters of
    flax. In another mapping each entry is a layer: a matrix (two-dimensional) or a kernel in torch's order (out, in,
    height, width).

    Raises:
        TypeError: a name is not a string.
    """
    for name in arrays:
        if not isinstance(name, str):
            raise TypeError(f"model: expected names that are strings, got {name!r}")
    is_tree = any(isinstance(value, Mapping) for value in arrays.values())
    if is_tree:
        arrays = networks_in_tree(arrays)
    first: dict[Any, str] = {}
    tensors = [_stored(name, value, first) for name, value in arrays.items()]
    combined = combine(tensors)
    if not is_tree and not is_state_dict(arrays) and combined == tensors:
        return tuple(_layer(tensor, value) for tensor, value in zip(tensors, arrays.values(), strict=True))
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
    same_as = "" if same_as == name else same_as
    if found.dtype.name in float8.TABLES:
        read = partial(float8.decode, found.view(np.uint8), found.dtype.name)
        return StoredTensor(name, found.shape, "float16", read, same_as=same_as, is_float8=True)
    words = found.view(np.uint16) if found.dtype.name == "bfloat16" else found
    return StoredTensor(name, found.shape, found.dtype.name, partial(_same, words), same_as=same_as)


def _layer(tensor: StoredTensor, value: Any) -> Layer:
    name, ndim = tensor.name, len(tensor.shape)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        from ww_callbacks.weights.torch import tensor_layer

        return tensor_layer(name, _kind(value.ndim), value)
    if tensor.skip is not None:
        return Layer.skipped(name, "array", tensor.skip)
    if ndim not in (2, 4):
        return Layer.skipped(name, _kind(ndim), dimensions_skip(ndim))
    assert tensor.read is not None
    return array_layer(name, _kind(ndim), tensor.shape, tensor.dtype, tensor.read)


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
    is_known = array.dtype.kind in "fiub" or array.dtype.name in _OF_JAX
    return array if is_known else Skip("unsupported_dtype", str(array.dtype))


def _kind(ndim: int) -> str:
    return {2: "matrix", 4: "kernel"}.get(ndim, "array")


def _same(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return array
