"""Low-rank adapters of peft: the effective weight of a layer is the sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ww_callbacks.report import Skip
from ww_callbacks.weights.torch.effective import Weight
from ww_callbacks.weights.torch.sharded import is_sharded


def base_of(module: nn.Module) -> nn.Module | None:
    """The base layer of a module with low-rank adapters; None for other modules.

    Recognised by the attributes that peft documents: ``base_layer``, the factors ``lora_A`` and ``lora_B`` of each
    adapter, and their ``scaling``.
    """
    if "base_layer" not in module._modules:
        return None
    children = dict(module.named_children())
    has_factors = "lora_A" in children and "lora_B" in children
    has_scaling = isinstance(getattr(module, "scaling", None), Mapping)
    return children.get("base_layer") if has_factors and has_scaling else None


def merged(module: Any, weight: Weight) -> Weight:
    """The base weight plus the active adapters."""
    names = _active(module)
    if weight.skip or not names:
        return weight
    if any(name in getattr(module, "lora_variant", {}) or _uses_dora(module, name) for name in names):
        return replace(weight, skip=Skip("adapter", "DoRA is not supported"))
    if any(is_sharded(parameter) for parameter in module.parameters()):
        return replace(weight, skip=Skip("sharded", "low-rank adapters on them are not supported"))
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return replace(weight, dtype=dtype, compute=partial(_sum, module, weight, names, dtype), identity=id(module))


def _sum(module: Any, weight: Weight, names: list[str], dtype: torch.dtype) -> Tensor:
    total = weight.compute().detach().to(dtype, copy=True)
    for name in names:
        total += _delta(module, name, dtype).to(total.device)
    return total


def _delta(module: Any, name: str, dtype: torch.dtype) -> Tensor:
    """B·A in the layout of the base weight, times the scaling of the adapter."""
    if name in module.lora_A:
        down, up = module.lora_A[name].weight, module.lora_B[name].weight
        transposed = bool(getattr(module, "fan_in_fan_out", False))
    else:
        down, up = module.lora_embedding_A[name], module.lora_embedding_B[name]
        transposed = True
    product: Tensor = torch.tensordot(up.detach().to(dtype).flatten(1), down.detach().to(dtype), 1)
    delta: Tensor = (product.T if transposed else product) * float(module.scaling[name])
    return delta


def _active(module: Any) -> list[str]:
    """The active adapters: none if they are disabled or already merged into the base weight."""
    if getattr(module, "disable_adapters", False) or getattr(module, "merged", False):
        return []
    active = getattr(module, "active_adapters", getattr(module, "active_adapter", None))
    names = [active] if isinstance(active, str) else list(module.lora_A if active is None else active)
    return [name for name in names if name in module.lora_A or name in getattr(module, "lora_embedding_A", {})]


def _uses_dora(module: Any, name: str) -> bool:
    use = getattr(module, "use_dora", {})
    return bool(isinstance(use, Mapping) and use.get(name))
