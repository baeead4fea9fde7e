"""Layers of a Keras model in memory, on every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from ww_callbacks.analysis import decoded
from ww_callbacks.report import Skip
from ww_callbacks.weights.combined import CODES
from ww_callbacks.weights.keras.quantised import Layout, multiplied_out
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

_WEIGHTS = ("kernel", "embeddings", "reverse_embeddings")
_PARTS = (
    *("quantized_kernel", "awq_scales", "g_idx"),
    *(f"{name}_{part}" for name in _WEIGHTS for part in ("scale", "zero")),
)
"""Names of variables that belong to a quantised weight."""
_ADAPTERS = tuple(f"lora_{name}_{side}" for name in _WEIGHTS for side in "ab")
"""Names of variables that are added to a weight."""
_MERGING = (None, "int8", "int4", "float8")
"""The modes in which low-rank adapters are added."""


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
    found = {role: _first(layer, f"_{role}", f"quantized_{role}", role) for role in roles}
    return {role: value for role, value in found.items() if isinstance(value, keras.Variable)}


def _first(layer: Any, *names: str) -> Any:
    """The first attribute that there is, None without one."""
    return next((value for name in names if (value := getattr(layer, name, None)) is not None), None)


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
    group = _group(layer, variables)
    kinds = _kinds(layer, group)
    for role, (suffix, what) in sorted(kinds.items(), key=lambda item: bool(item[1][0])):
        what = replace(what, skip=group[role].skip or what.skip)
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
    parts = {id(getattr(layer, name, None)) for name in (*_PARTS, *_ADAPTERS)} if variables else set()
    for variable in _own(layer):
        if len(variable.shape) >= 2 and id(variable) not in known | parts:
            what = bias(kind) if variable.name == "bias" else unknown(kind)
            yield Layer(f"{name}.{variable.name}", kind, skip=what.skip, role=what.role)


def _config(layer: Any) -> dict[str, Any]:
    """What the rules read from the configuration; ``get_config`` may fail in classes of users."""
    return {key: getattr(layer, key) for key in ("equation", "groups") if hasattr(layer, key)}


def _group(layer: Any, variables: Variables) -> Group:
    """The variables as the layer uses them: multiplied out if they are quantised, with low-rank additions."""
    group = {role: _tensor(variable) for role, variable in variables.items()}
    if layer.quantization_mode is not None and any(tensor.dtype in CODES for tensor in group.values()):
        variables = {name: getattr(layer, name, None) for name in _PARTS}
        parts = {role: tensor for role, tensor in group.items() if tensor.dtype != "uint8"}
        parts |= {name: _tensor(each) for name, each in variables.items() if isinstance(each, keras.Variable)}
        found, _ = multiplied_out(parts, _layout(layer))
        group |= {role: tensor for role, tensor in found.items() if role in group}
    if getattr(layer, "lora_enabled", False) and layer.quantization_mode in _MERGING:
        role = next((role for role in group if hasattr(layer, f"lora_{role}_a")), "")
        if role and group[role].dtype in FLOATS and group[role].skip is None:
            merged = partial(_merged, layer, role, group[role])
            group[role] = replace(group[role], dtype="float32", read=merged)
    return group


def _tensor(variable: Any) -> StoredTensor:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return StoredTensor(variable.path, tuple(variable.shape), dtype, partial(stored_array, variable))


def _layout(layer: Any) -> Layout:
    """How a quantised layer uses its codes. Older versions of Keras pack int4 along the inputs."""
    packing = None
    if hasattr(layer, "_int4_pack_axis"):
        packing = layer._int4_pack_axis, layer._orig_length_along_pack_axis
    elif hasattr(layer, "_orig_input_dim") and not hasattr(layer, "_orig_output_dim"):
        packing = 0, layer._orig_input_dim
    facts = {"length": "output_dim", "equation": "equation", "shape": "original_kernel_shape"}
    known = {fact: getattr(layer, name) for fact, name in facts.items() if getattr(layer, name, None) is not None}
    return Layout(_class_of(layer), layer.quantization_mode, packing=packing, **known)


def _merged(layer: Any, role: str, base: StoredTensor) -> Stored:
    assert base.read is not None
    weight = np.asarray(decoded(base.read(), base.dtype), np.float64)
    down, up = (_as_float(getattr(layer, f"lora_{role}_{side}")) for side in "ab")
    merged: Stored = (weight + layer.lora_alpha / layer.lora_rank * (down @ up)).astype(np.float32)
    return merged


def _as_float(variable: Any) -> NDArray[np.float64]:
    return np.asarray(keras.ops.convert_to_numpy(variable)).astype(np.float64)


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
