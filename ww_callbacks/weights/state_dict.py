"""Infer the layers of a state dict from names and shapes, because it does not store layer classes.

The rules are those of docs/models.md; the first that applies counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ww_callbacks.report import Role, Skip, SkipReason
from ww_callbacks.weights.classes import GATES, PARAMETERS
from ww_callbacks.weights.experts import are_experts, layers_of_experts
from ww_callbacks.weights.kernels import without_unclear
from ww_callbacks.weights.kinds import (
    IN_OUT,
    ONE_CHANNEL,
    OUT_IN,
    TABLE,
    Kind,
    bias,
    convolution,
    einsum_axes,
    embedding,
    is_table,
    layers_of_kind,
    norm,
)
from ww_callbacks.weights.layer import VECTOR, Layer
from ww_callbacks.weights.rule import Rule
from ww_callbacks.weights.tensor import FLOATS, OBJECT, StoredTensor

Group = Mapping[str, StoredTensor]

MAX_COLOURS = 4
"""A first kernel with one input channel and more outputs than this reads grey images; others may be depthwise."""
MAX_POSITIONS = 64
"""Longest side of a convolution kernel of Flax or Keras; a longer one is that of stacked matrices."""
_LAST_CHANNELS = ("kernel", "kernel:0")
"""Parameters that Keras and Flax store as (positions…, inputs, outputs); all others are in torch's order."""
_COMPUTED = re.compile(r"weight_(orig|mask|g|v|u)|original\d*|w?_u|w?_v")
_ADAPTER = re.compile(r"(^|[._])lora_", re.IGNORECASE)
_BIAS = re.compile(r"(\w*_)?bias(_\w+)?(:0)?")
_NORM = re.compile(r"(^|[._])(\w*norm\d*|ln(_?\w{1,2})?|bn\d*)$", re.IGNORECASE)
_EMBEDDING = re.compile(r"(^|[._])(wte|wpe|shared|embd?|embed(ding)?s?|embed_(tokens|positions))$", re.IGNORECASE)
_DYNAMICS = ("A_log", "A_logs")
"""Parameters of state-space models: rates of decay, not a map from inputs to outputs."""
_HEADS = dict.fromkeys(("query", "key", "value"), "abc,cde->abde") | {"out": "abcd,cde->abe"}
"""The projections of an attention of flax, and how their kernels are used."""
_GATES = re.compile(r"weight_(ih|hh)((_l\d+)?(_reverse)?)")
_GATES_BY_NUMBER = {len(gates): gates for gates in GATES.values()}


def layers_of_tensors(tensors: Sequence[StoredTensor]) -> tuple[Layer, ...]:
    """Layers from the tensors of a state dict, module by module in their order.

    Args:
        tensors: named "module.parameter", as in a torch state dict.

    Example:
        >>> import numpy as np
        >>> tensors = [
        ...     StoredTensor(name, shape, "float32", lambda: np.zeros(shape, "f4"))
        ...     for name, shape in [
        ...         ("conv1.weight", (16, 3, 3, 3)),
        ...         ("bn1.weight", (16,)),
        ...         ("fc.weight", (10, 64)),
        ...         ("fc.bias", (10,)),
        ...     ]
        ... ]
        >>> [(layer.name, layer.kind, layer.reason) for layer in layers_of_tensors(tensors)]
        [('conv1', 'convolution (inferred)', ''),
         ('bn1', 'vector (inferred)', 'no matrix: fewer than two dimensions'),
         ('fc', 'matrix (inferred)', '')]
    """
    modules: dict[str, dict[str, StoredTensor]] = {}
    tensors = without_unclear(tensors)
    for tensor in tensors:
        module, _, parameter = tensor.name.rpartition(".")
        modules.setdefault(module, {})[parameter] = tensor
    names: dict[str, str] = {}
    first = next((tensor for tensor in tensors if len(tensor.shape) > 2), None)
    return tuple(layer for module in modules for layer in _of_module(module, modules, names, first))


def _of_module(
    module: str, modules: Mapping[str, Group], names: dict[str, str], first: StoredTensor | None
) -> list[Layer]:
    """The layers of a module. Its vectors are listed, as one entry, only if it has nothing else."""
    group = modules[module]
    layers: list[Layer] = []
    for parameter, tensor in group.items():
        if tensor.dtype == OBJECT:
            assert tensor.skip is not None
            layers.append(Layer.skipped(_name(module, parameter, modules), OBJECT, tensor.skip, "other"))
            continue
        if len(tensor.shape) < 2:
            if not module:
                layers.append(_vector(parameter))
            continue
        name = names[tensor.name] = _name(module, parameter, modules)
        is_whole = tensor.skip is None and tensor.dtype in FLOATS and not tensor.same_as
        if is_whole and are_experts(module, parameter, tensor.shape):
            shapes = {each: other.shape for each, other in group.items()}
            layers += layers_of_experts(module, parameter, "expert (inferred)", tensor, shapes)
            continue
        kind = _attention(module, parameter, modules) or _kind(module, parameter, group)
        is_last = parameter in _LAST_CHANNELS
        if kind.skip == ONE_CHANNEL and tensor is first and tensor.shape[-1 if is_last else 0] > MAX_COLOURS:
            kind = convolution("convolution", tensor.shape, is_last, is_grey=True)
        if tensor.skip is not None and tensor.skip.reason in ("quantized", "computed"):
            kind = replace(kind, skip=tensor.skip)
        if tensor.same_as:
            kind = replace(kind, skip=Skip("tied", names.get(tensor.same_as, tensor.same_as)))
        layers += layers_of_kind(name, replace(kind, is_inferred=True), tensor)
    return layers or [_vector(module)]


def _vector(name: str) -> Layer:
    return Layer(name, "vector (inferred)", skip=VECTOR, role="vector", is_inferred=True)


def _name(module: str, parameter: str, modules: Mapping[str, Group]) -> str:
    """The name of the layer: that of the module for its main weight, as for a module in memory."""
    full = f"{module}.{parameter}" if module else parameter
    if not module or module in modules.get("", {}):
        return full
    if parameter in PARAMETERS:
        return module + PARAMETERS[parameter].suffix_of(parameter)
    return module if parameter in ("weight", *_LAST_CHANNELS) else full


def _kind(module: str, parameter: str, group: Group) -> Kind:
    """The first rule that applies."""
    tensor, shape = group[parameter], group[parameter].shape
    owner = module if parameter in ("weight", *_LAST_CHANNELS) else parameter
    if _BIAS.fullmatch(parameter):
        return bias("bias")
    if ".parametrizations." in f".{tensor.name}" or _COMPUTED.fullmatch(parameter):
        return _tensor("computed", "the file stores its parts, but not how they are combined")
    if _ADAPTER.search(tensor.name):
        return _tensor("adapter", "the file does not store its scale, so the sum is unknown")
    if is_table(parameter):
        return Kind("tensor", role="other", skip=TABLE)
    if parameter in _DYNAMICS:
        return _tensor("no_matrix", "the dynamics of a state-space model")
    if _NORM.search(owner):
        return norm("norm")
    if _EMBEDDING.search(owner):
        return embedding("embedding", shape)
    rule = PARAMETERS.get(parameter)
    if rule is not None and rule.rank == len(shape):
        return _as_in_memory(rule, shape)
    if len(shape) == 2:
        axes = IN_OUT if parameter in _LAST_CHANNELS else OUT_IN
        gates = _GATES_BY_NUMBER.get(_num_gates(parameter, shape[0], group), ())
        role: Role = "recurrent" if _GATES.fullmatch(parameter) else "matrix"
        return Kind("matrix", axes, role, parts=gates)
    return _kernel(module, parameter, shape)


def _attention(module: str, parameter: str, modules: Mapping[str, Group]) -> Kind | None:
    """The projections of an attention of flax, whose heads are an axis; None for any other weight."""
    parent, _, part = module.rpartition(".")
    if part not in _HEADS or parameter != "kernel":
        return None
    names = (f"{parent}.{each}".lstrip(".") for each in _HEADS)
    kernels = [modules[name]["kernel"].shape for name in names if "kernel" in modules.get(name, {})]
    ranks = {len(shape) for shape in kernels}
    if len(kernels) != len(_HEADS) or min(ranks) < 3:
        return None
    if ranks != {3}:
        return _tensor("no_rule", f"a kernel of an attention with {len(modules[module][parameter].shape)} dimensions")
    query, key, value, output = kernels
    if query[1] != output[0] or key[1] != value[1] or value[2] != output[1]:
        return None
    return Kind("matrix", einsum_axes(_HEADS[part]))


def _as_in_memory(rule: Rule, shape: tuple[int, ...]) -> Kind:
    """What the class of the parameter says. Without it, only parts that are square count as parts."""
    kind = rule.kind("matrix", shape)
    if rule.parts and shape[0] != len(rule.parts) * shape[1]:
        return replace(kind, parts=())
    return kind


def _tensor(reason: SkipReason, detail: str) -> Kind:
    """A tensor that is not analysed."""
    return Kind("tensor", role="other", skip=Skip(reason, detail))


def _kernel(module: str, parameter: str, shape: tuple[int, ...]) -> Kind:
    last = parameter in _LAST_CHANNELS
    is_short = not last and parameter == "weight" and shape[2] < min(shape[:2])
    is_stack = "einsum" in module.lower() or (last and len(shape) > 3 and max(shape[:-2]) > MAX_POSITIONS)
    if len(shape) > 5 or is_stack or (len(shape) == 3 and "conv" not in module.lower() and not is_short):
        return _tensor("no_rule", f"a tensor of {len(shape)} dimensions in a file without layer classes")
    return convolution("convolution", shape, last)


def _num_gates(parameter: str, rows: int, group: Group) -> int:
    """Number of gates in a recurrent weight: its rows divided by the size of the hidden state."""
    found = _GATES.fullmatch(parameter)
    hidden = group.get(f"weight_hh{found[2]}") if found else None
    if found is None or hidden is None or len(hidden.shape) != 2:
        return 1
    projected = group.get(f"weight_hr{found[2]}")
    size = (hidden if projected is None else projected).shape[-1:]
    return rows // size[0] if size and size[0] and rows % size[0] == 0 else 1
