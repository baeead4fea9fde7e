"""Every module of a model that holds weights, as layers."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ww_callbacks.report import Role, Skip
from ww_callbacks.weights.experts import are_experts, layers_of_experts
from ww_callbacks.weights.kinds import OUT_IN, Kind, bias, layers_of_kind, unknown
from ww_callbacks.weights.layer import VECTOR, Layer
from ww_callbacks.weights.registered import Extract, extracted, failure, missing, registered_for, registered_kind
from ww_callbacks.weights.rule import kinds_by_name
from ww_callbacks.weights.torch import lora
from ww_callbacks.weights.torch.effective import Weight, tensor_weight, weights_of
from ww_callbacks.weights.torch.names import unwrapped
from ww_callbacks.weights.torch.quantised import has_codes, multiplied_out, packed
from ww_callbacks.weights.torch.rules import Holder, fused_parts, kinds_of
from ww_callbacks.weights.torch.sharded import is_fully_sharded
from ww_callbacks.weights.torch.tensors import DTYPES

_PUBLIC_NAMES = {"NonDynamicallyQuantizableLinear": "Linear"}
"""Private classes of torch → the public class that users know."""

Seen = dict[Hashable, str]
"""Identity of a weight → name of the layer that has it first."""
Kinds = Mapping[str, tuple[str, Kind]]


def layers_of_module(model: nn.Module) -> tuple[Layer, ...]:
    """The layers of every module with its own weights, in the order of ``named_modules``.

    Weights with a rule are analysed; all other weights of two or more dimensions are listed with the reason why not.
    Parametrised weights are computed as the module computes them, with low-rank adapters added. Each active adapter is
    a layer too. The model is not changed.

    Args:
        model: any module; names are the same with and without wrappers and compilation.
    """
    seen: Seen = {}
    inner: set[int] = set()
    fused: dict[int, tuple[str, ...]] = {}
    layers: list[Layer] = []
    for name, module in unwrapped(model):
        if id(module) in inner:
            continue
        inner.update(_parts_of_a_weight(module))
        fused |= fused_parts(module)
        layers += _layers(name, module, fused.get(id(module), ()), seen)
    return tuple(layers)


def _parts_of_a_weight(module: nn.Module) -> set[int]:
    """Inner modules that only help to compute the weight of a module."""
    parts = []
    if parametrize.is_parametrized(module):
        parts.append(module.parametrizations)
    if lora.base_of(module) is not None:
        parts += list(module.children())
    return {id(part) for child in parts for part in child.modules()}  # type: ignore[union-attr]


def _layers(name: str, module: nn.Module, parts: tuple[str, ...], seen: Seen) -> Iterator[Layer]:
    kind = _class_name(module)
    registered = registered_for(module)
    if callable(registered):
        yield from _registered(name or kind, kind, module, registered, seen)
        return
    base = lora.base_of(module)
    holder = module if base is None else base
    kind, weights = _class_name(holder), multiplied_out(holder, weights_of(holder))
    if base is not None and "weight" in weights:
        weights["weight"] = lora.merged(module, weights["weight"])
    if registered is None:
        kinds = kinds_of(Holder(kind, holder, weights))
    else:
        kinds = kinds_by_name(registered, kind, {key: weight.shape for key, weight in weights.items()})
    if has_codes(holder):
        kinds = {name: ("", Kind(kind, OUT_IN)) for name in weights if name == "weight" and name not in kinds} | kinds
    if (found := packed(kind, module)) is not None:
        weight, known = found
        kinds = {"weight": ("", known)}
        weights = {} if weight is None else {"weight": weight}
        if weight is None:
            yield Layer(name or kind, kind, skip=known.skip, role=known.role)
    if parts and "weight" in kinds and "weight" in weights:
        kinds["weight"] = "", replace(kinds["weight"][1], parts=parts)
    for skip in missing(registered or {}, weights):
        yield Layer.skipped(name or kind, kind, skip)
    stacks = [] if registered else [key for key, weight in weights.items() if _is_stack(f"{name}.{kind}", key, weight)]
    yield from _entries(name, kind, weights, kinds, stacks, seen)
    if base is not None:
        yield from lora.adapters_of(name, module)


def _class_name(module: nn.Module) -> str:
    if type(module).__module__.startswith("torch.nn.modules"):  # fast path, most modules are
        name: str = type(module).__name__
    else:
        name = parametrize.type_before_parametrizations(module).__name__
        name = name.removeprefix("FSDP") if is_fully_sharded(module) else name
    return _PUBLIC_NAMES.get(name, name)


def _entries(
    name: str, kind: str, weights: Mapping[str, Weight], kinds: Kinds, stacks: Collection[str], seen: Seen
) -> Iterator[Layer]:
    """A layer for each weight of two or more dimensions, and for each expert; one entry if a module has none."""
    listed = {key: weight for key, weight in weights.items() if len(weight.shape) >= 2}
    for key, weight in weights.items():
        if key in listed:
            if key in stacks and key not in kinds:
                yield from _expert_layers(name or kind, key, kind, weights, seen)
                continue
            suffix, what = kinds.get(key) or (_suffix(name, key), _unknown(kind, key))
            full = (name or (kind if key in kinds else "")) + suffix
            yield from _weight_layers(full.removeprefix("."), what, weight, seen)
        elif not listed or not (name or kinds):
            late = weight.skip if weight.is_late else None
            yield Layer.skipped(name or (kind if kinds else key), kind, late or VECTOR, _role(kinds, key))
            if name or kinds:
                return


def _is_stack(module: str, key: str, weight: Weight) -> bool:
    return weight.skip is None and weight.dtype in DTYPES and are_experts(module, key, weight.shape)


def _expert_layers(name: str, key: str, kind: str, weights: Mapping[str, Weight], seen: Seen) -> Iterator[Layer]:
    weight, full = weights[key], f"{name}.{key}"
    first = seen.setdefault(weight.identity, full)
    if first != full:
        yield Layer.skipped(full, kind, Skip("tied", first))
        return
    shapes = {each: other.shape for each, other in weights.items()}
    yield from layers_of_experts(name, key, kind, weight.stored(full, ""), shapes)


def _suffix(name: str, key: str) -> str:
    return "" if name and key == "weight" else f".{key}"


def _unknown(kind: str, key: str) -> Kind:
    return bias(kind) if key.startswith("bias") else unknown(kind)


def _role(kinds: Kinds, key: str) -> Role:
    """The role of a weight with fewer than two dimensions."""
    return kinds[key][1].role if key in kinds else "vector"


def _weight_layers(name: str, kind: Kind, weight: Weight, seen: Seen) -> tuple[Layer, ...]:
    first = name if kind.skip or weight.skip else seen.setdefault(weight.identity, name)
    if first != name:
        kind = replace(kind, skip=Skip("tied", first))
    return layers_of_kind(name, kind, weight.stored(name, ""))


def _registered(name: str, kind: str, module: nn.Module, extract: Extract, seen: Seen) -> Iterator[Layer]:
    try:
        weights = extracted(extract, module)
    except Exception as error:
        yield Layer.skipped(name, kind, failure(error))
        return
    for suffix, value in weights.items():
        full = f"{name}.{suffix}" if suffix else name
        weight = tensor_weight(torch.as_tensor(value))
        what = Kind(kind) if weight.skip else registered_kind(kind, weight.shape)
        weight = replace(weight, source=partial(_again, extract, module, suffix))
        yield from _weight_layers(full, what, weight, seen)


def _again(extract: Extract, module: nn.Module, suffix: str) -> Tensor:
    return torch.as_tensor(extracted(extract, module)[suffix])
