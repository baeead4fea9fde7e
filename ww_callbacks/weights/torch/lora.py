"""Low-rank adapters of peft: the effective weight of a layer is the sum, and each adapter is a layer of low rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ww_callbacks.report import Skip
from ww_callbacks.weights.layer import ADAPTER, Layer, adapter_layer
from ww_callbacks.weights.torch.effective import Weight
from ww_callbacks.weights.torch.sharded import is_sharded
from ww_callbacks.weights.torch.tensors import DTYPES, Reader, is_on_device, unreadable


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
    is_off = getattr(module, "disable_adapters", False) or getattr(module, "merged", False)
    names = [] if is_off else _active(module)
    if weight.skip or not names:
        return weight
    for name in names:
        if _uses_dora(module, name):
            if name not in getattr(module, "lora_magnitude_vector", {}):
                return replace(weight, skip=Skip("adapter", "DoRA without its magnitudes"))
        elif name in getattr(module, "lora_variant", {}):
            variant = type(module.lora_variant[name]).__name__
            return replace(weight, skip=Skip("adapter", f"the variant {variant} is not supported"))
    if any(is_sharded(parameter) for parameter in module.parameters()):
        return replace(weight, skip=_SHARDED)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return replace(weight, dtype=dtype, source=partial(_sum, module, weight, names, dtype), identity=id(module))


def adapters_of(name: str, module: Any) -> Iterator[Layer]:
    """A layer of low rank for each active adapter of a module, also while it is merged or disabled.

    Args:
        name: of the module.
        module: with adapters, see :func:`base_of`.
    """
    for adapter in _active(module):
        full = f"{name}.lora_{adapter}".removeprefix(".")
        down, up = _factors(module, adapter)
        skip = _unfit(module, adapter, down, up)
        if skip is not None:
            yield Layer.skipped(full, ADAPTER, skip, "adapter")
            continue
        dtype = torch.promote_types(torch.promote_types(down.dtype, up.dtype), torch.float32)
        read = Reader(partial(_joined, module, adapter, dtype), is_on_device(down))
        sides = up.shape[0], down[0].numel()
        yield adapter_layer(full, down.shape[0], sides, DTYPES[dtype], read)


_SHARDED = Skip("sharded", "low-rank adapters on them are not supported")


def _unfit(module: Any, name: str, down: Tensor, up: Tensor) -> Skip | None:
    """Why two tensors are not the factors of a product of the rank of the adapter."""
    skip = unreadable(down) or unreadable(up)
    if skip is not None:
        return skip
    if is_sharded(down) or is_sharded(up):
        return _SHARDED
    ranks = getattr(module, "r", None)
    rank = ranks.get(name) if isinstance(ranks, Mapping) else None
    is_product = min(down.ndim, up.ndim) >= 2 and up[0].numel() == up.shape[1] == down.shape[0]
    if not is_product or (rank is not None and rank != down.shape[0]):
        shapes = f"A of shape {tuple(down.shape)} and B of shape {tuple(up.shape)}"
        return Skip("adapter", f"{shapes} do not fit" + ("" if rank is None else f" rank {rank}"))
    return None


def _joined(module: Any, name: str, dtype: torch.dtype) -> Tensor:
    """The factors as :func:`ww_callbacks.analysis.joined_factors` joins them, B times the scaling of the adapter."""
    down, up = (factor.detach().to(dtype).flatten(1) for factor in _factors(module, name))
    return torch.cat([up.T * float(module.scaling[name]), down], dim=1)


def _sum(module: Any, weight: Weight, names: list[str], dtype: torch.dtype) -> Tensor:
    base = weight.tensor().detach().to(dtype)
    total = base.clone()
    for name in names:
        delta = _delta(module, name, dtype).to(total.device)
        if _uses_dora(module, name):
            delta = _with_magnitude(module, name, base + delta) - base
        total += delta
    return total


def _with_magnitude(module: Any, name: str, weight: Tensor) -> Tensor:
    """The weight of a DoRA adapter: the weights of each output have the norm that the adapter says."""
    magnitude = module.lora_magnitude_vector[name]
    magnitude = getattr(magnitude, "weight", magnitude).detach()
    outputs = 1 if _is_transposed(module, name) else 0
    others = [axis for axis in range(weight.ndim) if axis != outputs]
    shape = [-1 if axis == outputs else 1 for axis in range(weight.ndim)]
    norms = weight.square().sum(dim=others, keepdim=True).sqrt()
    scaled: Tensor = weight * (magnitude.to(weight).reshape(shape) / norms)
    return scaled


def _delta(module: Any, name: str, dtype: torch.dtype) -> Tensor:
    """B·A in the layout of the base weight, times the scaling of the adapter."""
    down, up = (factor.detach().to(dtype) for factor in _factors(module, name))
    product: Tensor = torch.tensordot(up.flatten(1), down, 1)
    delta: Tensor = (product.T if _is_transposed(module, name) else product) * float(module.scaling[name])
    return delta


def _factors(module: Any, name: str) -> tuple[Tensor, Tensor]:
    """A and B."""
    if name in module.lora_A:
        return module.lora_A[name].weight, module.lora_B[name].weight
    return module.lora_embedding_A[name], module.lora_embedding_B[name]


def _is_transposed(module: Any, name: str) -> bool:
    """Whether the base weight is (inputs, outputs)."""
    return name not in module.lora_A or bool(getattr(module, "fan_in_fan_out", False))


def _active(module: Any) -> list[str]:
    """The active adapters."""
    active = getattr(module, "active_adapters", getattr(module, "active_adapter", None))
    names = [active] if isinstance(active, str) else list(module.lora_A if active is None else active)
    return [name for name in names if name in module.lora_A or name in getattr(module, "lora_embedding_A", {})]


def _uses_dora(module: Any, name: str) -> bool:
    use = getattr(module, "use_dora", {})
    variant = getattr(module, "lora_variant", {})
    is_variant = name in variant and type(variant[name]).__name__.startswith("Dora")
    return is_variant or bool(isinstance(use, Mapping) and use.get(name))
