"""What Identity, Transpose and DequantizeLinear make of a stored weight. Nothing else is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ww_callbacks.report import Skip
from ww_callbacks.weights.onnx.graph import Node
from ww_callbacks.weights.tensor import Stored, StoredTensor

MAX_STEPS = 16
"""Most nodes that change a weight one after the other."""
_INTEGERS = ("int4", "uint4", "int8", "uint8", "int16", "uint16")
_SCALES = ("float16", "float32")


@dataclass(frozen=True, slots=True)
class Weight:
    """A stored weight as a node receives it.

    Attributes:
        origin: name of the initialiser or constant.
        tensor: what the nodes in between made of it.
        steps: how many of them changed it.
    """

    origin: str
    tensor: StoredTensor
    steps: int = 0

    def changed(self, shape: tuple[int, ...], dtype: str, read: Callable[[], Stored]) -> Weight:
        """The weight behind a further node."""
        if self.steps == MAX_STEPS:
            return self.skipped(Skip("computed", f"more than {MAX_STEPS} nodes change it before it is used"))
        tensor = replace(self.tensor, shape=shape, dtype=dtype, read=read)
        return replace(self, tensor=tensor, steps=self.steps + 1)

    def skipped(self, skip: Skip) -> Weight:
        """The weight, which cannot be analysed."""
        return replace(self, tensor=replace(self.tensor, read=None, skip=skip))


def passed(node: Node, values: Mapping[str, Weight]) -> Weight | None:
    """What a node makes of a weight; None if it is not one of the three, or its input is not stored.

    Args:
        node: any node.
        values: the weights known so far, by the name of the value.
    """
    weight = values.get(node.inputs[0]) if node.inputs else None
    if weight is None or node.op not in ("Identity", "Transpose", "DequantizeLinear"):
        return None
    read = weight.tensor.read
    if node.op == "Identity" or read is None:
        return weight
    if node.op == "Transpose":
        return _transpose(weight, read, node)
    scale, zero = (values.get(node.inputs[i]) if len(node.inputs) > i else None for i in (1, 2))
    return _dequantise(weight, read, scale, zero, node)


def _transpose(weight: Weight, read: Callable[[], Stored], node: Node) -> Weight:
    tensor = weight.tensor
    order = node.attributes.get("perm", tuple(reversed(range(len(tensor.shape)))))
    if not isinstance(order, tuple) or sorted(order) != list(range(len(tensor.shape))):
        return weight.skipped(Skip("bad_shape", f"{len(tensor.shape)} dimensions, transposed by {str(order)[:80]}"))
    shape = tuple(tensor.shape[axis] for axis in order)
    return weight.changed(shape, tensor.dtype, partial(_transposed, read, order))


def _transposed(read: Callable[[], Stored], order: tuple[int, ...]) -> Stored:
    return read().transpose(order)


def _dequantise(
    weight: Weight, read: Callable[[], Stored], scale: Weight | None, zero: Weight | None, node: Node
) -> Weight:
    reason = _unsupported(weight.tensor, scale, zero, node)
    if reason:
        return weight.skipped(Skip("quantized", f"DequantizeLinear: {reason}"))
    assert scale is not None
    shape = _broadcast(weight.tensor.shape, scale.tensor.shape, node.number("axis", 1))
    assert shape is not None
    read_zero = None if zero is None else zero.tensor.read
    dequantised = partial(_dequantised, read, scale.tensor.read, read_zero, shape)
    return weight.changed(weight.tensor.shape, scale.tensor.dtype, dequantised)


def _unsupported(tensor: StoredTensor, scale: Weight | None, zero: Weight | None, node: Node) -> str:
    """Why a weight cannot be dequantised exactly; "" if it can."""
    if tensor.dtype not in _INTEGERS:
        return f"its numbers are {tensor.dtype}"
    if scale is None or scale.tensor.read is None or scale.steps or scale.tensor.dtype not in _SCALES:
        return "its scale is not stored as float32 or float16"
    if len(node.inputs) > 2 and node.inputs[2]:
        if zero is None or zero.tensor.read is None or zero.steps or zero.tensor.dtype != tensor.dtype:
            return "its zero point is not stored in the type of the weight"
        if zero.tensor.shape != scale.tensor.shape:
            return "its scale and its zero point have different shapes"
    if node.number("block_size", 0):
        return "a scale per block"
    if node.number("output_dtype", 0):
        return "its output has another type than its scale"
    if _broadcast(tensor.shape, scale.tensor.shape, node.number("axis", 1)) is None:
        return f"a scale of shape {scale.tensor.shape} for a weight of shape {tensor.shape}"
    return ""


def _broadcast(shape: tuple[int, ...], scale: tuple[int, ...], axis: int) -> tuple[int, ...] | None:
    """The shape in which a scale multiplies a weight; None if it is not one number, or one per index of the axis."""
    if scale in ((), (1,)):
        return ()
    if len(scale) != 1 or not -len(shape) <= axis < len(shape) or scale[0] != shape[axis]:
        return None
    ones = [1] * len(shape)
    ones[axis] = scale[0]
    return tuple(ones)


def _dequantised(read: Any, read_scale: Any, read_zero: Any, shape: tuple[int, ...]) -> Stored:
    """(codes − zero point) · scale, computed in float32 and returned in the type of the scale."""
    codes, scale = read().astype(np.int32), read_scale().reshape(shape)
    zero = np.int32(0) if read_zero is None else read_zero().astype(np.int32).reshape(shape)
    with np.errstate(all="ignore"):  # the analysis reports what is not finite
        result: Stored = ((codes - zero).astype(np.float32) * scale.astype(np.float32)).astype(scale.dtype)
    return result
