"""How a stored tensor is interpreted: what the rules of all frameworks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ww_callbacks.analysis import Axes, LayerSpec
from ww_callbacks.weights.layer import Layer
from ww_callbacks.weights.split import divided
from ww_callbacks.weights.tensor import FLOATS, Stored, StoredTensor

NO_AXES = Axes((), (), ())
OUT_IN = Axes((), (0,), (1,))
IN_OUT = Axes((), (1,), (0,))

DEPTHWISE = "a depthwise kernel mixes no channels, so it holds no matrix"
ONE_INPUT = "one input channel: depthwise, or images in grey; a matrix has two columns or more"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a tensor is interpreted.

    Attributes:
        word: the kind that the report shows.
        axes: what each axis counts.
        is_conv: whether it is a convolution.
        reason: why it is not analysed.
        parts: suffixes of the matrices that share one axis in equal parts, in their order; none for one matrix.
        parts_axis: the axis that they share; None for that of the outputs.
        shape: the shape to which :attr:`axes` refers; None for the stored shape.
    """

    word: str
    axes: Axes = NO_AXES
    is_conv: bool = False
    reason: str = ""
    parts: tuple[str, ...] = ()
    parts_axis: int | None = None
    shape: tuple[int, ...] | None = None


def layers_of_kind(name: str, kind: Kind, tensor: StoredTensor) -> tuple[Layer, ...]:
    """The layers of a tensor: one, one per part, or a skipped one."""
    reason = kind.reason or tensor.reason
    if not reason and tensor.dtype not in FLOATS:
        reason = f"stored as {tensor.dtype}, only floating-point numbers are analysed"
    if reason:
        return (Layer.skipped(name, kind.word, reason),)
    assert tensor.read is not None
    read = tensor.read if kind.shape is None else _in_shape(tensor.read, kind.shape)
    spec = LayerSpec(name, kind.word, kind.shape or tensor.shape, tensor.dtype, kind.axes, kind.is_conv)
    layer = Layer(name, kind.word, spec, read, send=getattr(read, "send", None))
    if not kind.parts:
        return (layer,)
    axis = kind.axes.outputs[0] if kind.parts_axis is None else kind.parts_axis
    return divided(layer, dict.fromkeys(kind.parts, spec.shape[axis] // len(kind.parts)), axis)


def _in_shape(read: Callable[[], Stored], shape: tuple[int, ...]) -> Callable[[], Stored]:
    """Reshapes in the reader if it can do that."""
    reshaped = getattr(read, "reshaped", None)
    result: Callable[[], Stored] = partial(_reshaped, read, shape) if reshaped is None else reshaped(shape)
    return result


def _reshaped(read: Callable[[], Stored], shape: tuple[int, ...]) -> Stored:
    return read().reshape(shape)


def embedding(word: str, shape: tuple[int, ...], max_rows: int) -> Kind:
    """A table with one vector per row."""
    if len(shape) != 2:
        return Kind(word, reason=f"an embedding of {len(shape)} dimensions")
    if shape[0] > max_rows:
        return Kind(word, reason=f"embedding of {shape[0]} rows, more than max_rows={max_rows}")
    return Kind(word, IN_OUT)


def convolution(word: str, shape: tuple[int, ...], channels_last: bool) -> Kind:
    """A kernel in torch's order (outputs, inputs, positions…), or (positions…, inputs, outputs)."""
    rank = len(shape) - 2
    outputs, inputs, taps = (rank + 1, rank, range(rank)) if channels_last else (0, 1, range(2, rank + 2))
    if shape[inputs] == 1 < shape[outputs]:
        return Kind(word, reason=ONE_INPUT)
    return Kind(word, Axes(tuple(taps), (outputs,), (inputs,)), is_conv=True)


def einsum_axes(equation: str) -> Axes:
    """Axes of the kernel of an ``einsum``.

    Contracted axes are inputs, new axes are outputs, axes that pass through count separate matrices.

    Args:
        equation: ``"data,kernel->result"`` in the notation of ``einsum``.

    Raises:
        ValueError: not such an equation.

    Example:
        >>> einsum_axes("abc,cde->abde")
        Axes(pooled=(), outputs=(1, 2), inputs=(0,))
    """
    operands, output = equation.replace("...", "").split("->")
    data, kernel = operands.split(",")
    return Axes(
        tuple(i for i, label in enumerate(kernel) if label in data and label in output),
        tuple(i for i, label in enumerate(kernel) if label not in data and label in output),
        tuple(i for i, label in enumerate(kernel) if label in data and label not in output),
    )
