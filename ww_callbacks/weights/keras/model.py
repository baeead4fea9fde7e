"""Layers of a Keras model, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.weights.layer import LATER, Axes, Layer, dimensions_reason
from ww_callbacks.weights.registered import array_layers, extractor_of

Stored = NDArray[Any]

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_GATES = {layers.LSTMCell: "ifco", layers.GRUCell: "zrh", layers.SimpleRNNCell: " "}

_NO_MATRIX = "a depthwise kernel mixes no channels, so it holds no matrix"
_FLOATS = ("float16", "bfloat16", "float32", "float64")
# Belong to a weight that a rule reads: low-rank additions and the scales of quantised weights.
_COMPANIONS = ("lora_", "kernel_scale", "embeddings_scale")


@dataclass(frozen=True, slots=True)
class _Part:
    """What one variable of a layer holds: matrices, or a reason why not."""

    suffix: str
    variable: Any
    axes: Axes | None = None
    view: Callable[[Stored], Stored] | None = None
    reason: str = ""
    is_conv: bool = False


def layers_of_keras(model: keras.layers.Layer, max_rows: int) -> tuple[Layer, ...]:
    """Every layer with variables of its own, nested ones too, in the order in which Keras tracks them.

    Rows of a matrix are the outputs of the layer, columns its inputs. A variable of two or more dimensions that no
    rule knows is listed as skipped.

    Args:
        model: a Keras model or layer.
        max_rows: embeddings with more rows are skipped.
    """
    seen: dict[tuple[int, str], str] = {}
    tree = [(name, layer, _parts(layer, max_rows) if _own(layer) else []) for name, layer in walk(model)]
    known = {id(part.variable) for _, _, parts in tree for part in parts}
    return tuple(entry for name, layer, parts in tree for entry in _entries(name, layer, parts, known, seen))


def walk(layer: Any, prefix: str = "", visited: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Each layer of the tree once, with the names on the way to it joined by dots."""
    visited = set() if visited is None else visited
    if id(layer) in visited:
        return
    visited.add(id(layer))
    yield prefix or layer.name, layer
    for child in layer._flatten_layers(include_self=False, recursive=False):
        if isinstance(child, layers.Layer):
            yield from walk(child, f"{prefix}.{child.name}" if prefix else child.name, visited)


def _own(layer: Any) -> list[Any]:
    """Variables of the layer itself, without those of the layers in it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _is_late(layer: Any) -> bool:
    """Whether the layer may still make variables: it has a ``build`` of its own that was not called."""
    inner = layer._flatten_layers(include_self=False, recursive=False)
    return not layer.built and not inner and type(layer).build is not layers.Layer.build


def _entries(
    name: str, layer: Any, parts: list[_Part], known: set[int], seen: dict[tuple[int, str], str]
) -> Iterator[Layer]:
    kind, own = type(layer).__name__, _own(layer)
    extract = extractor_of(layer)
    if extract is not None:
        yield from array_layers(name, kind, layer, extract, keras.ops.convert_to_numpy)
        return
    if not own:
        if _is_late(layer):
            yield Layer.skipped(name, kind, f"not built yet, {LATER}")
        return
    yield from (_entry(name, layer, part, seen) for part in parts)
    rest = [v for v in own if len(v.shape) >= 2 and id(v) not in known]
    rest = [v for v in rest if not (parts and v.name.startswith(_COMPANIONS))]
    for variable in rest:
        reason = (
            "a bias"
            if variable.name == "bias"
            else f"{kind} has no rule for this weight; register_layer({kind}, ...) adds one"
        )
        yield Layer.skipped(f"{name}.{variable.name}", kind, reason)
    if not parts and not rest:
        yield Layer.skipped(name, kind, dimensions_reason(1))


def _entry(name: str, layer: Any, part: _Part, seen: dict[tuple[int, str], str]) -> Layer:
    name, kind = name + part.suffix, type(layer).__name__
    if part.axes is None:
        return Layer.skipped(name, kind, part.reason)
    key = (id(part.variable), part.suffix)
    if key in seen:
        return Layer.skipped(name, kind, f"shares its weight with {seen[key]}")
    seen[key] = name
    merged = _merge(layer, part.variable)
    dtype = "float32" if merged is not None else keras.backend.standardize_dtype(part.variable.dtype)
    if dtype not in _FLOATS:
        return Layer.skipped(name, kind, f"quantised to {dtype}, not analysed")
    view = part.view or _unchanged
    shape = view(np.broadcast_to(np.float32(0), tuple(part.variable.shape))).shape
    spec = LayerSpec(name, kind, shape, dtype, part.axes, part.is_conv)
    return Layer(name, kind, spec, partial(_read, part.variable, merged, view))


def _read(variable: Any, merged: Callable[[], Stored] | None, view: Callable[[Stored], Stored]) -> Stored:
    return view(merged() if merged is not None else stored_array(variable))


def stored_array(variable: Any) -> Stored:
    """The numbers of a Keras variable as stored, without a copy where the backend allows it.

    bfloat16 comes as raw 16-bit words.
    """
    value = variable.value
    if keras.backend.backend() == "torch":
        from ww_callbacks.weights.torch import stored_array as stored_tensor

        return stored_tensor(value)
    array = np.asarray(value)
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def _merge(layer: Any, variable: Any) -> Callable[[], Stored] | None:
    """How a weight is computed that is not stored as it acts: low-rank additions, int8 with scales."""
    which = "embeddings" if isinstance(layer, layers.Embedding) else "kernel"
    scale = getattr(layer, f"{which}_scale", None) if layer.quantization_mode == "int8" else None
    if scale is not None and not isinstance(layer, (layers.Dense, layers.Embedding)):
        return None
    lora = getattr(layer, "lora_enabled", False)
    if scale is None and not lora:
        return None
    if scale is None and keras.backend.standardize_dtype(variable.dtype) not in _FLOATS:
        return None

    def merged() -> Stored:
        weight = _as_float(variable)
        if scale is not None:
            scales = _as_float(scale)
            weight = weight / (scales[:, None] if which == "embeddings" else scales)
        if lora:
            down, up = (_as_float(getattr(layer, f"lora_{which}_{side}")) for side in "ab")
            weight = weight + layer.lora_alpha / layer.lora_rank * (down @ up)
        result: Stored = weight.astype(np.float32)
        return result

    return merged


def _as_float(variable: Any) -> Stored:
    return np.asarray(keras.ops.convert_to_numpy(variable)).astype(np.float64)


def _parts(layer: Any, max_rows: int) -> list[_Part]:
    rule = _rule_of(layer)
    if rule is None:
        return []
    return rule(layer, max_rows) if rule is _embedding else rule(layer)


def _rule_of(layer: Any) -> Callable[..., list[_Part]] | None:
    return next((rule for classes, rule in _RULES if isinstance(layer, classes)), None)


def _dense(layer: Any) -> list[_Part]:
    return [_Part("", layer._kernel, ((), (1,), (0,)))]


def _einsum(layer: Any) -> list[_Part]:
    """Contracted axes are the inputs, new ones the outputs; what passes through counts separate matrices."""
    operands, output = layer.equation.replace("...", "").split("->")
    data, kernel = operands.split(",")
    pooled = tuple(i for i, label in enumerate(kernel) if label in data and label in output)
    rows = tuple(i for i, label in enumerate(kernel) if label not in data and label in output)
    columns = tuple(i for i, label in enumerate(kernel) if label in data and label not in output)
    if not rows or not columns:
        return [
            _Part(
                "", layer._kernel, reason=f"equation {layer.equation} multiplies element by element and holds no matrix"
            )
        ]
    return [_Part("", layer._kernel, (pooled, rows, columns))]


def _convolution(layer: Any) -> list[_Part]:
    """Stored as (positions…, inputs per group, outputs); the outputs of a group stand together."""
    taps = tuple(range(layer.rank))
    if layer.groups == 1:
        return [_Part("", layer._kernel, (taps, (layer.rank + 1,), (layer.rank,)), is_conv=True)]
    *kernel, inputs, outputs = layer._kernel.shape
    if inputs == 1:
        return [_Part("", layer._kernel, reason=_NO_MATRIX)]
    shape = (*kernel, inputs, layer.groups, outputs // layer.groups)
    axes = ((*taps, layer.rank + 1), (layer.rank + 2,), (layer.rank,))
    return [_Part("", layer._kernel, axes, lambda stored: stored.reshape(shape), is_conv=True)]


def _transposed(layer: Any) -> list[_Part]:
    """Stored as (positions…, outputs, inputs)."""
    axes = (tuple(range(layer.rank)), (layer.rank,), (layer.rank + 1,))
    return [_Part("", layer.kernel, axes, is_conv=True)]


def _separable(layer: Any) -> list[_Part]:
    axes = (tuple(range(layer.rank)), (layer.rank + 1,), (layer.rank,))
    pointwise = _Part("", layer.pointwise_kernel, axes, is_conv=True)
    return [pointwise, _Part(".depthwise_kernel", layer.depthwise_kernel, reason=_NO_MATRIX)]


def _depthwise(layer: Any) -> list[_Part]:
    return [_Part("", layer.kernel, reason=_NO_MATRIX)]


def _embedding(layer: Any, max_rows: int) -> list[_Part]:
    rows = layer.input_dim
    if rows > max_rows:
        return [_Part("", layer._embeddings, reason=f"embedding of {rows} rows, more than max_rows={max_rows}")]
    return [_Part("", layer._embeddings, ((), (1,), (0,)))]


def _recurrent(layer: Any) -> list[_Part]:
    """The gates stand side by side along the outputs; each is a matrix of its own."""
    gates = next(gates for cell, gates in _GATES.items() if isinstance(layer, cell))
    return [
        _Part(
            f".{name}.{gate}".rstrip(". "),
            variable,
            ((), (1,), (0,)),
            partial(_gate, count=len(gates), index=index),
        )
        for name, variable in (("kernel", layer.kernel), ("recurrent_kernel", layer.recurrent_kernel))
        for index, gate in enumerate(gates)
    ]


def _gate(stored: Stored, count: int, index: int) -> Stored:
    return stored.reshape(stored.shape[0], count, -1)[:, index]


def _unchanged(stored: Stored) -> Stored:
    return stored


_RULES: tuple[tuple[Any, Callable[..., list[_Part]]], ...] = (
    (layers.Dense, _dense),
    (layers.EinsumDense, _einsum),
    (_SEPARABLE, _separable),
    (_DEPTHWISE, _depthwise),
    (_TRANSPOSED, _transposed),
    (_CONVOLUTIONS, _convolution),
    (layers.Embedding, _embedding),
    (tuple(_GATES), _recurrent),
)
