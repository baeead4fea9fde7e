"""Weights that Keras stores as codes with scales: int8, int4, GPTQ and AWQ. Does not import Keras.

A layer quantised to float8 keeps its kernel in floating point, so there is nothing to multiply out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.report import Skip
from ww_callbacks.weights.combined.group import (
    Numbers,
    UnfitError,
    codes,
    numbers,
    require,
    require_floats,
    require_real,
)
from ww_callbacks.weights.combined.packing import nibbles
from ww_callbacks.weights.kinds import einsum_axes
from ww_callbacks.weights.tensor import Stored, StoredTensor

Group = Mapping[str, StoredTensor]

_MATRIX = "ab,bc->ac"
_TABLES = ("Embedding", "ReversibleEmbedding")
_CLASSES = ("Dense", "EinsumDense", *_TABLES)
_LEAST_PACKED = -112
"""Two numbers of four bits in a byte make up no smaller code, because Keras keeps them within -7 … 7."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a layer uses its codes.

    Attributes:
        cls: class of the layer.
        mode: "int8" or "int4"; None if it is not known.
        equation: of an EinsumDense.
        length: number of columns of an embedding; None if it is not known.
        shape: of the kernel of an EinsumDense; None if it is not known.
        packing: for a kernel in memory as older versions of Keras pack it: the axis of the inputs, and its length.
    """

    cls: str
    mode: str | None = None
    equation: str = ""
    length: int | None = None
    shape: tuple[int, ...] | None = None
    packing: tuple[int, int] | None = None

    @property
    def labels(self) -> str:
        """The axes of the kernel."""
        equation = self.equation if self.cls == "EinsumDense" else _MATRIX
        return equation.partition("->")[0].partition(",")[2]

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of the kernel that have scales, in the order in which the scales are stored."""
        output = (self.equation if self.cls == "EinsumDense" else _MATRIX).partition("->")[2]
        return tuple(self.labels.index(label) for label in output if label in self.labels)


def is_quantised(cls: str, numbered: Group) -> bool:
    """Whether the numbered variables of a layer in a file hold codes and scales.

    Args:
        cls: class of the layer, "" if it is unknown.
        numbered: "0", "1" … → variable.
    """
    matrices = [tensor for tensor in numbered.values() if len(tensor.shape) >= 2]
    has_codes = bool(matrices) and matrices[0].dtype in ("int8", "uint8")
    return has_codes and len(numbered) > 1 and cls in ("", *_CLASSES) and all(map(str.isdecimal, numbered))


def named(cls: str, numbered: Group) -> dict[str, StoredTensor]:
    """The variables of a quantised layer by name. Files number those that the layer has.

    Args:
        cls: class of the layer.
        numbered: "0", "1" … → variable.

    Example:
        >>> kernel, vector = StoredTensor("", (8, 3), "int8"), StoredTensor("", (3,), "float32")
        >>> list(named("Dense", {"0": kernel, "1": vector, "2": vector}))
        ['kernel', 'bias', 'kernel_scale']
    """
    variables = [numbered[number] for number in sorted(numbered, key=int)]
    bias = ["bias"] if len(variables[0].shape) < 2 else []
    if cls in _TABLES:
        groups = ["embeddings_zero", "g_idx"] if len(variables) > 1 and len(variables[1].shape) == 2 else []
        names = ["embeddings", "embeddings_scale", *groups]
        names += ["reverse_embeddings", "reverse_embeddings_scale", "reverse_embeddings_zero"]
    elif variables[0].dtype == "int8":
        names = ["kernel", *(["bias"] if len(variables) % 2 else []), "kernel_scale", "kernel_zero", "g_idx"]
    else:
        vectors = sum(len(tensor.shape) == 1 for tensor in variables) - len(bias)
        zero = ["kernel_zero"] if len(variables) - len(bias) - vectors == 3 else []  # Keras 3.15 does not save it
        names = [*bias, "quantized_kernel", "kernel_scale", *zero, *(["awq_scales"] if vectors == 2 else []), "g_idx"]
    return dict(zip(names, variables, strict=False))


def multiplied_out(parts: Group, layout: Layout) -> tuple[dict[str, StoredTensor], str]:
    """The weights and the bias of a quantised layer, and the equation of its kernel.

    Args:
        parts: name → variable.
        layout: how they are used.

    Returns:
        Codes and scales are left out. A weight that cannot be multiplied out has a reason that names its parts.
    """
    bias = {name: tensor for name, tensor in parts.items() if name == "bias"}
    stored = [name for name in parts if name != "bias"]
    try:
        require(layout.cls in _CLASSES, f"no rule for {layout.cls or 'a layer of unknown class'}")
        found = dict(_weights(parts, layout))
    except UnfitError as error:
        main = max((parts[name] for name in stored), key=lambda tensor: len(tensor.shape))
        skip = Skip("quantized", f"stored as {', '.join(stored)}; {error}")
        role = "embeddings" if layout.cls in _TABLES else "kernel"
        return {role: StoredTensor(main.name, main.shape, "float32", skip=skip), **bias}, layout.equation
    is_flat = layout.cls == "EinsumDense" and len(found["kernel"].shape) != len(layout.labels)
    return {**found, **bias}, _MATRIX if is_flat else layout.equation


def _weights(parts: Group, layout: Layout) -> Iterator[tuple[str, StoredTensor]]:
    if "quantized_kernel" in parts:
        require(layout.shape is not None or len(layout.labels) == 2, "the shape of the kernel is not known")
        yield "kernel", _in_shape(_calibrated(parts), layout)
        return
    name = "embeddings" if layout.cls in _TABLES else "kernel"
    weight = _part(parts, name)
    require(weight.dtype == "int8" and 0 not in weight.shape, _form(name, weight))
    if f"{name}_zero" in parts:
        yield name, _in_shape(_in_blocks(parts, name, int(name == "embeddings"), 1), layout)
        if "reverse_embeddings" in parts:
            yield "reverse_embeddings", _in_blocks(parts, "reverse_embeddings", 0, 0)
        return
    scale = _part(parts, f"{name}_scale")
    is_int4 = (layout.mode or _mode(weight, scale, layout)) == "int4"
    if name == "kernel":
        yield name, _kernel(weight, scale, is_int4, layout)
        return
    require(not is_int4 or layout.length is not None, "the file does not state the number of columns")
    packing = (1, layout.length or 0) if is_int4 else None
    yield name, _in_channels(weight, scale, (0,), packing)
    if "reverse_embeddings" in parts:
        weight, scale = parts["reverse_embeddings"], _part(parts, "reverse_embeddings_scale")
        packing = (0, layout.length or 0) if is_int4 else None
        yield "reverse_embeddings", _in_channels(weight, scale, (1,), packing)


def _mode(weight: StoredTensor, scale: StoredTensor, layout: Layout) -> str:
    """The mode that the codes or their shape prove."""
    columns = math.prod(scale.shape)
    if layout.cls not in _TABLES and len(weight.shape) == 2 and weight.shape[1] == -(-columns // 2) < columns:
        return "int4"
    require(int(codes(weight).min()) < _LEAST_PACKED, "the file does not tell whether the codes are int8 or int4")
    return "int8"


def _kernel(weight: StoredTensor, scale: StoredTensor, is_int4: bool, layout: Layout) -> StoredTensor:
    """A kernel with one scale for each output: in its own shape, or in int4 as a matrix with one row for each input."""
    if not is_int4 or layout.packing is not None:
        is_known = 0 < len(set(layout.order)) == len(layout.order) < len(set(layout.labels))
        require(is_known and len(layout.labels) == len(weight.shape), _form("kernel", weight))
        return _in_channels(weight, scale, layout.order, layout.packing)
    columns = math.prod(scale.shape)
    require(columns > 1 and len(weight.shape) == 2, _misfit(weight, scale))
    return _in_shape(_in_channels(weight, scale, (1,), (1, columns)), layout)


def _in_channels(
    weight: StoredTensor, scale: StoredTensor, order: tuple[int, ...], packing: tuple[int, int] | None
) -> StoredTensor:
    """A weight with one scale per channel: q / s.

    Args:
        weight: the codes.
        scale: of each channel.
        order: the axes of the channels, in the order of the scales.
        packing: the axis along which the codes are packed and its length; None if they are not.
    """
    require_floats(scale)
    require(len(weight.shape) > max(order), _misfit(weight, scale))
    shape = _unpacked_shape(weight, packing)
    require(math.prod(scale.shape) == math.prod(shape[axis] for axis in order), _misfit(weight, scale))
    return _computed(weight, shape, partial(_divided, weight, scale, order, packing, shape))


def _in_blocks(parts: Group, name: str, axis: int, packed_axis: int) -> StoredTensor:
    """A matrix in int4 with scales and zero points for blocks of inputs: (q - z) · s.

    Args:
        parts: name → variable.
        name: of the codes.
        axis: the axis along which the blocks lie.
        packed_axis: the axis along which the codes are packed.
    """
    weight, scale, zero, index = (_part(parts, each) for each in (name, f"{name}_scale", f"{name}_zero", "g_idx"))
    require(len(scale.shape) == 2 and len(index.shape) == 1 and len(weight.shape) == 2, _misfit(weight, scale))
    length = index.shape[0] if packed_axis == axis else scale.shape[packed_axis]
    return _shifted(weight, scale, zero, index, axis, (packed_axis, length))


def _calibrated(parts: Group) -> StoredTensor:
    """A kernel of GPTQ or AWQ, stored with one row per output: (q - z) · s, with AWQ divided by a scale per input."""
    names = ("quantized_kernel", "kernel_scale", "kernel_zero", "g_idx")
    weight, scale, zero, index = (_part(parts, name) for name in names)
    require(weight.dtype == "uint8" and len(scale.shape) == 2 and scale.shape[0] > 1, _misfit(weight, scale))
    packing = None if weight.shape[0] == scale.shape[0] else (0, scale.shape[0])
    rows = _shifted(weight, scale, zero, index, 1, packing)
    factors = parts.get("awq_scales")
    if factors is not None:
        require_floats(factors)
        require(factors.shape == rows.shape[1:], f"awq_scales of shape {factors.shape}")
    assert rows.read is not None
    return _computed(weight, rows.shape[::-1], partial(_transposed, rows.read, factors))


def _shifted(
    weight: StoredTensor,
    scale: StoredTensor,
    zero: StoredTensor,
    index: StoredTensor,
    axis: int,
    packing: tuple[int, int] | None,
) -> StoredTensor:
    require_floats(scale)
    require_real(zero)
    shape = _unpacked_shape(weight, packing)
    fits = len(shape) == 2 and zero.shape == scale.shape and scale.shape[1 - axis] == shape[1 - axis]
    require(fits and index.shape == (shape[axis],), _misfit(weight, scale))
    blocks = numbers(index)
    require(
        bool(((blocks >= 0) & (blocks < scale.shape[axis])).all()), f"g_idx names a block beyond {scale.shape[axis]}"
    )
    which = blocks.astype(np.intp)
    return _computed(weight, shape, partial(_minus_zero, weight, scale, zero, which, axis, packing))


def _in_shape(flat: StoredTensor, layout: Layout) -> StoredTensor:
    """A matrix in the shape of the kernel. Without that, its rows have to be the inputs of the layer."""
    if layout.cls != "EinsumDense":
        return flat
    if layout.shape is not None:
        require(math.prod(layout.shape) == math.prod(flat.shape), f"a kernel of shape {layout.shape}")
        assert flat.read is not None
        return _computed(flat, layout.shape, partial(_reshaped, flat.read, layout.shape))
    try:
        axes = einsum_axes(layout.equation)
    except ValueError as error:
        raise UnfitError("its equation is not known") from error
    require(not axes.pooled and axes.inputs == tuple(range(len(axes.inputs))), "the shape of the kernel is not known")
    return flat


def _part(parts: Group, name: str) -> StoredTensor:
    require(name in parts, f"no {name}")
    return parts[name]


def _form(name: str, tensor: StoredTensor) -> str:
    return f"{name} of dtype {tensor.dtype} and shape {tensor.shape}"


def _misfit(weight: StoredTensor, scale: StoredTensor) -> str:
    return f"codes of shape {weight.shape} and scales of shape {scale.shape} do not fit"


def _unpacked_shape(weight: StoredTensor, packing: tuple[int, int] | None) -> tuple[int, ...]:
    if packing is None:
        return weight.shape
    axis, length = packing
    fits = len(weight.shape) > axis and weight.shape[axis] == -(-length // 2)
    require(fits, f"codes of shape {weight.shape} for {length} numbers of four bits")
    return (*weight.shape[:axis], length, *weight.shape[axis + 1 :])


def _computed(weight: StoredTensor, shape: tuple[int, ...], read: Callable[[], Stored]) -> StoredTensor:
    return StoredTensor(weight.name, shape, "float32", read)


def _unpacked(weight: StoredTensor, packing: tuple[int, int] | None) -> NDArray[Any]:
    """The codes, int4 from two to a byte: the lower half first."""
    values = codes(weight)
    if packing is None:
        return values
    axis, length = packing
    octets = np.ascontiguousarray(np.moveaxis(values, axis, -1)).view(np.uint8)
    each: NDArray[Any] = nibbles(octets, high_first=False)[..., :length]
    if values.dtype == np.int8:
        each = (each ^ 8).astype(np.int8) - 8
    return np.moveaxis(each, -1, axis)


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _divided(
    weight: StoredTensor,
    scale: StoredTensor,
    order: tuple[int, ...],
    packing: tuple[int, int] | None,
    shape: tuple[int, ...],
) -> Numbers:
    each = numbers(scale).reshape([shape[axis] for axis in order]).transpose(np.argsort(order))
    each = each.reshape([side if axis in order else 1 for axis, side in enumerate(shape)])
    return _unpacked(weight, packing).astype(np.float32) / each


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _minus_zero(
    weight: StoredTensor,
    scale: StoredTensor,
    zero: StoredTensor,
    which: NDArray[np.intp],
    axis: int,
    packing: tuple[int, int] | None,
) -> Numbers:
    values = _unpacked(weight, packing).astype(np.float32)
    result: Numbers = (values - numbers(zero).take(which, axis)) * numbers(scale).take(which, axis)
    return result


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _transposed(read: Callable[[], Stored], factors: StoredTensor | None) -> Stored:
    rows: NDArray[Any] = read().T
    return rows if factors is None else rows / numbers(factors)[:, None]


def _reshaped(read: Callable[[], Stored], shape: tuple[int, ...]) -> Stored:
    return read().reshape(shape)
