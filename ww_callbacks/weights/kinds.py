"""How a stored tensor is interpreted: what the rules of all frameworks share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ww_callbacks.analysis import Axes, LayerSpec
from ww_callbacks.report import Role, Skip
from ww_callbacks.weights.layer import Layer
from ww_callbacks.weights.split import divided
from ww_callbacks.weights.tensor import FLOATS, Stored, StoredTensor

NO_AXES = Axes((), (), ())
OUT_IN = Axes((), (0,), (1,))
IN_OUT = Axes((), (1,), (0,))

NORM = Skip("no_matrix", "normalisation weights")
ONE_CHANNEL = Skip("no_matrix", "one input channel (depthwise, or grey images)")

EMPTY = Skip("empty")
TABLE = Skip("no_matrix", "a table that is not trained")
_TABLE = re.compile(
    r"inv_freq|freqs(_(cis|cos|sin))?|(cos|sin)(_cached)?|(\w*_)?mask|tril|masked_bias|pe|(\w*_)?sinusoid\w*"
    r"|relative_(position_index|coords_table)|position_ids|anchors|anchor_grid|running_(mean|var)|mel_(filters|basis)"
    r"|(forward|inverse)_basis(_buffer)?"
)
MAX_ROWS = 50_000
"""Larger embeddings are analysed only on request."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a tensor is interpreted.

    Attributes:
        word: the kind that the report shows.
        axes: what each axis counts.
        role: what it is used for.
        skip: why it is not analysed; None if it is.
        parts: suffixes of the matrices that share one axis in equal parts, in their order; none for one matrix.
        parts_axis: the axis that they share; None for that of the outputs.
        tail: end of the layer's name that comes behind the parts, as in ``experts.7.down_proj``.
        shape: the shape to which :attr:`axes` refers; None for the stored shape.
    """

    word: str
    axes: Axes = NO_AXES
    role: Role = "matrix"
    skip: Skip | None = None
    parts: tuple[str, ...] = ()
    parts_axis: int | None = None
    tail: str = ""
    shape: tuple[int, ...] | None = None
    is_inferred: bool = False

    @property
    def shown(self) -> str:
        """The word that the report shows."""
        return f"{self.word} (inferred)" if self.is_inferred else self.word


def layers_of_kind(name: str, kind: Kind, tensor: StoredTensor) -> tuple[Layer, ...]:
    """The layers of a tensor: one, one per part, or a skipped one."""
    if kind.skip is not None and kind.skip.reason == "too_many_rows":
        (layer,) = layers_of_kind(name, replace(kind, skip=None), tensor)
        return (layer if layer.spec is None else layer.only_on_request(kind.skip),)
    skip = kind.skip or tensor.skip
    if skip is None and tensor.dtype not in FLOATS:
        skip = Skip("unsupported_dtype", tensor.dtype)
    if skip is None and 0 in tensor.shape:
        skip = EMPTY
    if skip is not None:
        return (Layer(name, kind.shown, skip=skip, role=kind.role, is_inferred=kind.is_inferred),)
    assert tensor.read is not None
    read = tensor.read if kind.shape is None else _in_shape(tensor.read, kind.shape)
    spec = LayerSpec(name, kind.shown, kind.shape or tensor.shape, tensor.dtype, kind.axes, kind.role)
    send = getattr(read, "send", None)
    layer = Layer(name, kind.shown, spec, read, send=send, role=kind.role, is_inferred=kind.is_inferred)
    if not kind.parts:
        return (layer,)
    axis = kind.axes.outputs[0] if kind.parts_axis is None else kind.parts_axis
    parts = divided(layer, dict.fromkeys(kind.parts, spec.shape[axis] // len(kind.parts)), axis)
    if not kind.tail:
        return parts
    stem = name.removesuffix(kind.tail)
    return tuple(part.named(f"{stem}.{each}{kind.tail}") for part, each in zip(parts, kind.parts, strict=True))


def _in_shape(read: Callable[[], Stored], shape: tuple[int, ...]) -> Callable[[], Stored]:
    """Reshapes in the reader if it can do that."""
    reshaped = getattr(read, "reshaped", None)
    result: Callable[[], Stored] = partial(_reshaped, read, shape) if reshaped is None else reshaped(shape)
    return result


def _reshaped(read: Callable[[], Stored], shape: tuple[int, ...]) -> Stored:
    return read().reshape(shape)


def is_table(name: str) -> bool:
    """Whether a parameter is computed once and not trained, by its name.

    Example:
        >>> is_table("encoder.stft.forward_basis_buffer"), is_table("rotary.inv_freq"), is_table("fc.weight")
        (True, True, False)
    """
    return _TABLE.fullmatch(name.rpartition(".")[2]) is not None


def bias(word: str) -> Kind:
    """A bias, whatever its shape."""
    return Kind(word, role="bias", skip=Skip("no_matrix", "a bias"))


def norm(word: str) -> Kind:
    """The weights of a normalisation layer, whatever their shape."""
    return Kind(word, role="norm", skip=NORM)


def depthwise(word: str) -> Kind:
    """The kernel of a depthwise convolution."""
    return Kind(word, role="convolution", skip=Skip("no_matrix", "a depthwise kernel does not mix channels"))


def unknown(word: str) -> Kind:
    """A weight of a class that has no rule for it."""
    skip = Skip("no_rule", f"this weight; add one with register_layer({word}, ...)")
    return Kind(word, role=named_role(word, "other"), skip=skip)


def named_role(word: str, other: Role) -> Role:
    """The role of a class without a rule: an embedding if its name says so."""
    return "embedding" if "Embedding" in word else other


def embedding(word: str, shape: tuple[int, ...]) -> Kind:
    """A table with one vector per row."""
    if len(shape) != 2:
        return Kind(word, role="embedding", skip=Skip("bad_shape", f"an embedding of {len(shape)} dimensions"))
    if shape[0] > MAX_ROWS:
        detail = f"{shape[0]} rows, more than {MAX_ROWS}; give its full name in layers= to analyse it"
        return Kind(word, IN_OUT, "embedding", Skip("too_many_rows", detail))
    return Kind(word, IN_OUT, "embedding")


def convolution(word: str, shape: tuple[int, ...], channels_last: bool, *, is_grey: bool = False) -> Kind:
    """A kernel in torch's order (outputs, inputs, positions…), or (positions…, inputs, outputs).

    Args:
        word: the kind that the report shows.
        shape: of the kernel.
        channels_last: whether the outputs come last.
        is_grey: whether a single input channel is that of grey images, so that the kernel is not depthwise.
    """
    rank = len(shape) - 2
    outputs, inputs, taps = (rank + 1, rank, range(rank)) if channels_last else (0, 1, range(2, rank + 2))
    if shape[inputs] == 1 < shape[outputs] and not is_grey:
        return Kind(word, role="convolution", skip=ONE_CHANNEL)
    return Kind(word, Axes(tuple(taps), (outputs,), (inputs,)), "convolution")


def grouped_convolution(word: str, shape: tuple[int, ...], groups: int, transposed: bool = False) -> Kind:
    """The matrices of a kernel: one per position and group, outputs × inputs.

    Args:
        word: the kind that the report shows.
        shape: (outputs, inputs per group, positions…), transposed (inputs, outputs per group, positions…).
        groups: number of groups, which follow each other along the first axis.
        transposed: whether the convolution is transposed.

    Example:
        >>> kind = grouped_convolution("Conv2d", (6, 4, 3, 2), groups=2)
        >>> kind.axes, kind.shape
        (Axes(pooled=(3, 4, 0), outputs=(1,), inputs=(2,)), (2, 3, 4, 3, 2))
    """
    first, second, *positions = shape
    if groups == 1:
        taps = tuple(range(2, len(shape)))
        return Kind(word, Axes(taps, (1,), (0,)) if transposed else Axes(taps, (0,), (1,)), "convolution")
    inputs = first // groups if transposed else second
    if inputs == 1:
        return depthwise(word)
    taps = (*range(3, len(shape) + 1), 0)
    axes = Axes(taps, (2,), (1,)) if transposed else Axes(taps, (1,), (2,))
    return Kind(word, axes, "convolution", shape=(groups, first // groups, second, *positions))


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
