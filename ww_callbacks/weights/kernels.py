"""The order of axes in convolution kernels of files: torch and MLX call both a kernel ``weight``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from ww_callbacks.report import Skip
from ww_callbacks.weights.experts import are_experts
from ww_callbacks.weights.tensor import Stored, StoredTensor, sliced

Order = Literal["torch", "mlx"]
"""(outputs, inputs, positions…) or (outputs, positions…, inputs)."""

_CONVOLUTION = re.compile("conv", re.IGNORECASE)


def order_of(shape: tuple[int, ...]) -> Order | None:
    """The order that the shape of a kernel tells; None if it fits both.

    Kernels have the same side in all positions. Those of one position axis tell if inputs and outputs are as many.

    Example:
        >>> order_of((64, 32, 3, 3)), order_of((64, 3, 3, 32)), order_of((64, 3, 3, 3))
        ('torch', 'mlx', None)
    """
    if len(shape) == 3:
        outputs, second, third = shape
        if outputs == second > third:
            return "torch"
        return "mlx" if outputs == third > second > 1 else None
    is_torch, is_mlx = _is_square(shape[2:]), _is_square(shape[1:-1])
    if is_torch == is_mlx:
        return None
    return "torch" if is_torch else "mlx"


def _is_square(sides: tuple[int, ...]) -> bool:
    return len(set(sides)) == 1 and sides[0] > 1


def without_unclear(tensors: Sequence[StoredTensor]) -> Sequence[StoredTensor]:
    """The tensors; kernels are marked as skipped if all that tell an order have that of MLX."""
    orders = {order_of(tensor.shape) for tensor in tensors if _is_kernel(tensor)}
    if "mlx" not in orders or "torch" in orders:
        return tensors
    detail = "a kernel in the order of torch or of MLX; a safetensors file of MLX says format: mlx in its metadata"
    skip = Skip("no_rule", detail)
    return [replace(tensor, skip=tensor.skip or skip) if _is_kernel(tensor) else tensor for tensor in tensors]


def in_torch_order(tensor: StoredTensor) -> StoredTensor:
    """A tensor of a file of MLX. The inputs of a kernel become its second axis; others are unchanged."""
    if not _is_kernel(tensor) or tensor.read is None:
        return tensor
    outputs, *positions, inputs = tensor.shape
    return replace(tensor, shape=(outputs, inputs, *positions), read=_InputsSecond(tensor.read))


def _is_kernel(tensor: StoredTensor) -> bool:
    module, _, parameter = tensor.name.rpartition(".")
    rank = len(tensor.shape)
    if parameter != "weight" or are_experts(module, parameter, tensor.shape):
        return False
    return rank in (4, 5) or (rank == 3 and _CONVOLUTION.search(module) is not None)


@dataclass(frozen=True, slots=True)
class _InputsSecond:
    """Reads a kernel whose inputs are its last axis.

    Attributes:
        read: reads it as it is stored.
    """

    read: Callable[[], Stored]

    def __call__(self) -> Stored:
        """The kernel with its inputs as the second axis."""
        return np.moveaxis(self.read(), -1, 1)

    def narrow(self, axis: int, start: int, size: int) -> Callable[[], Stored]:
        """A reader of ``size`` entries along an axis."""
        return partial(sliced, self, axis, start, size)
