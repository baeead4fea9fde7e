"""Tensors of torch as numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ww_callbacks.report import Skip
from ww_callbacks.weights.layer import Layer, array_layer, dimensions_skip
from ww_callbacks.weights.torch.device import send
from ww_callbacks.weights.torch.sharded import is_sharded, whole

Compute = Callable[[], torch.Tensor]

DTYPES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float8_e4m3fn: "float16",
    torch.float8_e5m2: "float16",
}
"""The numpy dtype of each torch dtype; eight-bit floats become float16, which represents them exactly."""

INTEGERS = {
    getattr(torch, name): name
    for name in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
    if hasattr(torch, name)
}
"""Dtypes of codes, positions and masks."""

_POWERS = getattr(torch, "float8_e8m0fnu", None)
"""Scales that are powers of two, in eight bits."""


def stored_dtype(dtype: torch.dtype) -> str | None:
    """The numpy dtype in which the numbers of a tensor are read; None if they cannot be read.

    Example:
        >>> stored_dtype(torch.float8_e5m2), stored_dtype(torch.int32), stored_dtype(torch.complex64)
        ('float16', 'int32', None)
    """
    if dtype == _POWERS:
        return "float32"
    return DTYPES.get(dtype) or INTEGERS.get(dtype)


def is_float8(dtype: torch.dtype) -> bool:
    """Whether the numbers of this dtype are stored in eight bits."""
    return dtype.is_floating_point and dtype.itemsize == 1


def place_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Device and memory of a tensor, the same for a transposed view.

    Example:
        >>> tensor = torch.ones(2, 3)
        >>> place_of(tensor) == place_of(tensor.T), place_of(tensor) == place_of(tensor[:1])
        (True, False)
    """
    axes = sorted(pair for pair in zip(tensor.stride(), tensor.shape, strict=True) if pair[1] != 1)
    return str(tensor.device), tensor.data_ptr(), tensor.dtype, tuple(axes)


def tensor_layer(name: str, kind: str, tensor: torch.Tensor) -> Layer:
    """A layer from a matrix or a kernel (out, in, height, width), read again at each snapshot."""
    skip = unreadable(tensor)
    if skip is None and tensor.ndim not in (2, 4):
        skip = dimensions_skip(tensor.ndim)
    if skip is not None:
        return Layer.skipped(name, kind, skip)
    read = Reader(tensor, is_on_device(tensor))
    return replace(array_layer(name, kind, tuple(tensor.shape), DTYPES[tensor.dtype], read), send=read.send)


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """Reads a tensor, or a part of it, when called.

    Attributes:
        source: the tensor, or a function that returns the current one.
        is_on_device: whether it can be copied from a device during training.
        changes: operations that turn the whole tensor into what is read.
    """

    source: torch.Tensor | Compute
    is_on_device: bool = False
    changes: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = ()

    def __call__(self) -> NDArray[np.generic]:
        """The numbers as stored."""
        return _as_array(self._tensor())

    @property
    def send(self) -> Callable[[], Any] | None:
        """Starts to copy the numbers to host memory; None if they are already there."""
        return self._send if self.is_on_device else None

    def narrow(self, axis: int, start: int, size: int) -> Reader:
        """A reader of ``size`` entries along an axis."""
        return replace(self, changes=(*self.changes, lambda tensor: tensor.narrow(axis, start, size)))

    def reshaped(self, shape: tuple[int, ...]) -> Reader:
        """A reader of the same numbers in another shape."""
        return replace(self, changes=(*self.changes, lambda tensor: tensor.reshape(shape)))

    def _send(self) -> Any:
        return send(self._tensor(), _as_array)

    def _tensor(self) -> torch.Tensor:
        if isinstance(self.source, torch.Tensor) and not self.changes:
            return whole(self.source).detach()
        with torch.no_grad():
            tensor = whole(self.source if isinstance(self.source, torch.Tensor) else self.source()).detach()
            for change in self.changes:
                tensor = change(tensor)
        return tensor


def is_on_device(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on a GPU and not sharded, so that it can be copied asynchronously."""
    return tensor.is_cuda and not is_sharded(tensor)


def stored_array(tensor: torch.Tensor) -> NDArray[np.generic]:
    """The numbers of a tensor as stored, without a copy on the CPU. bfloat16 is returned as raw 16-bit words."""
    return _as_array(whole(tensor).detach())


def _as_array(tensor: torch.Tensor) -> NDArray[np.generic]:
    if DTYPES.get(tensor.dtype) == "float16":
        tensor = tensor.to(torch.float16)
    if tensor.dtype == _POWERS:
        tensor = tensor.to(torch.float32)
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).cpu().numpy().view(np.uint16)
    array: NDArray[np.generic] = tensor.cpu().numpy()
    return array


def unreadable(tensor: torch.Tensor) -> Skip | None:
    """Why the numbers of a tensor cannot be read as stored; None if they can."""
    if nn.parameter.is_lazy(tensor):
        return Skip("not_built", "not initialised yet")
    if tensor.is_meta:
        return Skip("not_built", "on the meta device")
    if tensor.dtype not in DTYPES:
        return Skip("unsupported_dtype", str(tensor.dtype))
    is_known = type(tensor) in (torch.Tensor, nn.Parameter) or is_sharded(tensor)
    if not is_known or tensor.layout != torch.strided:
        return Skip("unsupported_tensor", f"class {type(tensor).__name__}, layout {tensor.layout}")
    return None
