"""Layers of a Keras model in memory, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from ww_callbacks.report import Skip
from ww_callbacks.weights.keras.rules import Group, kind_of, known_class, roles_of
from ww_callbacks.weights.kinds import Kind, bias, layers_of_kind, named_role, unknown
from ww_callbacks.weights.layer import VECTOR, Layer
from ww_callbacks.weights.registered import array_layers, missing, registered_for
from ww_callbacks.weights.rule import kinds_by_name
from ww_callbacks.weights.tensor import FLOATS, Stored, StoredTensor

Variables = Mapping[str, Any]
"""Role → variable, for the variables of a layer that the rules know."""
Seen = dict[tuple[int, str], str]
"""Identity of a variable and suffix of the name → name of the first layer with that weight."""

_COMPANIONS = ("lora_", "kernel_scale", "embeddings_scale")
"""Names of variables that belong to another weight: low-rank additions and quantisation scales."""


def layers_of_keras(model: keras.layers.Layer) -> tuple[Layer, ...]:
    """Every layer with its own variables, nested layers included, in the order in which Keras tracks them.

    Rows of a matrix are the outputs of the layer, columns its inputs. A variable of two or more dimensions without a
    rule is listed as skipped.

    Args:
        model: a Keras model or layer.
    """
    seen: Seen = {}
    tree = [(name, layer, _variables(layer)) for name, layer in walk(model)]
    known = {id(variable) for _, _, variables in tree for variable in variables.values()}
    return tuple(entry for name, layer, variables in tree for entry in _entries(name, layer, variables, known, seen))


def walk(layer: Any, prefix: str = "", visited: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Each layer of the tree once, with its dotted name: the names of its parents and its own."""
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


def _variables(layer: Any) -> Variables:
    """The variables that a rule knows. Properties such as ``kernel`` may compute: the stored variable comes first."""
    if not _own(layer):
        return {}
    registered = registered_for(layer)
    roles = registered if isinstance(registered, Mapping) else roles_of(_class_of(layer))
    found = {role: getattr(layer, f"_{role}", None) for role in roles}
    found = {role: getattr(layer, role, None) if value is None else value for role, value in found.items()}
    return {role: value for role, value in found.items() if isinstance(value, keras.Variable)}


def _class_of(layer: Any) -> str:
    """The nearest class of Keras with a rule, "" without one: the class of the layer or a base class."""
    bases = [cls.__name__ for cls in type(layer).__mro__ if cls.__module__.startswith("keras.")]
    return known_class(bases)


def _is_late(layer: Any) -> bool:
    """Whether the layer may still create variables: it overrides ``build``, which was not called yet."""
    inner = layer._flatten_layers(include_self=False, recursive=False)
    return not layer.built and not inner and type(layer).build is not layers.Layer.build


def _entries(name: str, layer: Any, variables: Variables, known: set[int], seen: Seen) -> Iterator[Layer]:
    kind = type(layer).__name__
    registered = registered_for(layer)
    if callable(registered):
        yield from array_layers(name, kind, layer, registered, keras.ops.convert_to_numpy)
    elif not _own(layer):
        if _is_late(layer):
            yield Layer.skipped(name, kind, Skip("not_built", "not built yet"), named_role(kind, "other"))
    else:
        yield from (Layer.skipped(name, kind, skip) for skip in missing(registered or {}, variables))
        listed = [*_known(name, layer, variables, seen), *_unknown(name, layer, variables, known)]
        yield from listed or [Layer.skipped(name, kind, VECTOR, "vector")]


def _known(name: str, layer: Any, variables: Variables, seen: Seen) -> Iterator[Layer]:
    """What the rules say. The weight that is listed under the name of the layer comes first."""
    group = {role: _tensor(layer, variable) for role, variable in variables.items()}
    kinds = _kinds(layer, group)
    for role, (suffix, what) in sorted(kinds.items(), key=lambda item: bool(item[1][0])):
        for entry in layers_of_kind(name + suffix, what, group[role]):
            key = id(variables[role]), entry.name.removeprefix(name)
            yield entry if what.skip else _once(entry, key, seen)


def _kinds(layer: Any, group: Group) -> dict[str, tuple[str, Kind]]:
    """Role → suffix of the name and kind, as registered or by the rules of Keras's classes."""
    word, registered = type(layer).__name__, registered_for(layer)
    if isinstance(registered, Mapping):
        return kinds_by_name(registered, word, {role: tensor.shape for role, tensor in group.items()})
    cls, config = _class_of(layer), _config(layer)
    return {role: kind_of(cls, role, word, group, config) for role in group}


def _once(entry: Layer, key: tuple[int, str], seen: Seen) -> Layer:
    """The layer, or a skipped one if an earlier layer has the same weight."""
    if key in seen:
        return Layer.skipped(entry.name, entry.kind, Skip("tied", seen[key]), entry.role)
    seen[key] = entry.name
    return entry


def _unknown(name: str, layer: Any, variables: Variables, known: set[int]) -> Iterator[Layer]:
    """The other variables of two or more dimensions."""
    kind = type(layer).__name__
    for variable in _own(layer):
        is_companion = bool(variables) and variable.name.startswith(_COMPANIONS)
        if len(variable.shape) >= 2 and id(variable) not in known and not is_companion:
            what = bias(kind) if variable.name == "bias" else unknown(kind)
            yield Layer(f"{name}.{variable.name}", kind, skip=what.skip, role=what.role)


def _config(layer: Any) -> dict[str, Any]:
    """What the rules read from the configuration; ``get_config`` may fail in classes of users."""
    return {key: getattr(layer, key) for key in ("equation", "groups") if hasattr(layer, key)}


def _tensor(layer: Any, variable: Any) -> StoredTensor:
    """A variable as the layer uses it."""
    merged = _merge(layer, variable)
    dtype = "float32" if merged is not None else keras.backend.standardize_dtype(variable.dtype)
    skip = None if dtype in FLOATS else Skip("quantized", dtype)
    read = merged or partial(stored_array, variable)
    return StoredTensor(variable.path, tuple(variable.shape), dtype, read, skip)


def stored_array(variable: Any) -> Stored:
    """The numbers of a Keras variable as stored, without a copy if the backend allows it.

    bfloat16 is returned as raw 16-bit words.
    """
    value = variable.value
    if keras.backend.backend() == "torch":
        from ww_callbacks.weights.torch import stored_array as stored_tensor

        return stored_tensor(value)
    array = np.asarray(value)
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def _merge(layer: Any, variable: Any) -> Callable[[], Stored] | None:
    """Computes the weight from its parts (low-rank additions, int8 with scales); None if it is stored as it is used."""
    which = "embeddings" if isinstance(layer, layers.Embedding) else "kernel"
    scale = getattr(layer, f"{which}_scale", None) if layer.quantization_mode == "int8" else None
    if scale is not None and not isinstance(layer, (layers.Dense, layers.Embedding)):
        return None
    lora = getattr(layer, "lora_enabled", False)
    if scale is None and not lora:
        return None
    if scale is None and keras.backend.standardize_dtype(variable.dtype) not in FLOATS:
        return None

    def merged() -> Stored:
        weight = _as_float(variable)
        if scale is not None:
            scales = _as_float(scale)
            weight = weight / (scales[:, None] if which == "embeddings" else scales)
        if lora:
            down, up = (_as_float(getattr(layer, f"lora_{which}_{side}")) for side in "ab")
            weight = weight + layer.lora_alpha / layer.lora_rank * (down @ up)
        return weight.astype(np.float32)

    return merged


def _as_float(variable: Any) -> NDArray[np.float64]:
    return np.asarray(keras.ops.convert_to_numpy(variable)).astype(np.float64)
