"""Layers of a torch module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parametrize

from ww_callbacks.weights.matrix import LATER, Layer, array_layer, dimensions_reason
from ww_callbacks.weights.torch_device import send
from ww_callbacks.weights.torch_sharded import is_sharded, whole

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
DTYPES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float8_e4m3fn: "float16",
    torch.float8_e5m2: "float16",
}
"""What numbers of a tensor are read as; eight-bit ones become float16, which holds each of them exactly."""


def layers_of_module(model: nn.Module) -> tuple[Layer, ...]:
    """Every module with parameters of its own, in the order of ``named_modules``.

    ``nn.Linear`` and ``nn.Conv2d`` (and subclasses) with a plain weight are analysed; all others are listed with the
    reason why not. Nothing is computed and no attribute is read that could change the module.
    """
    seen: dict[int, str] = {}
    return tuple(layer for name, module in _unwrapped(model) for layer in _layers_of_one(name, module, seen))


def tensor_layer(name: str, kind: str, tensor: torch.Tensor) -> Layer:
    """A layer from a weight tensor, read again at each snapshot."""
    reason = _unreadable(tensor)
    if reason:
        return Layer.skipped(name, kind, reason)
    layer = array_layer(name, kind, tuple(tensor.shape), DTYPES[tensor.dtype], partial(stored_array, tensor))
    return (
        replace(layer, send=partial(send, tensor, stored_array)) if tensor.is_cuda and not is_sharded(tensor) else layer
    )


def stored_array(tensor: torch.Tensor) -> NDArray[np.generic]:
    """The numbers of a tensor as stored; on the CPU without a copy. bfloat16 comes as raw 16-bit words."""
    tensor = whole(tensor).detach()
    if DTYPES.get(tensor.dtype) == "float16":
        tensor = tensor.to(torch.float16)
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).cpu().numpy().view(np.uint16)
    array: NDArray[np.generic] = tensor.cpu().numpy()
    return array


def plain_name(name: str) -> str:
    """A module's name without the parts that wrappers add, so that it is the same with and without them.

    Example:
        >>> plain_name("_orig_mod.encoder._checkpoint_wrapped_module.fc")
        'encoder.fc'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _unwrapped(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    while (inner := _inside(model)) is not None:
        model = inner
    for name, module in model.named_modules():
        if not hasattr(module, "_orig_mod"):
            yield plain_name(name), module


def _inside(model: nn.Module) -> nn.Module | None:
    """The model inside a wrapper, None where there is none."""
    parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    inner = model.module if parallel else getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def _layers_of_one(name: str, module: nn.Module, seen: dict[int, str]) -> Iterator[Layer]:
    parameters = {key: value for key, value in module._parameters.items() if value is not None}
    kind = type(module).__name__
    if parametrize.is_parametrized(module):
        reason = "parametrised: reading the weight could change it, not analysed yet"
        yield Layer.skipped(name or kind, kind, reason)
    elif isinstance(module, (nn.Linear, nn.Conv2d)) and "weight" in parameters:
        yield _weight_layer(name or kind, module, parameters["weight"], seen)
    elif not parameters or _is_parametrization(name):
        return
    elif name:
        yield Layer.skipped(name, kind, _unknown_reason(kind, list(parameters.values())))
    else:
        for key, value in parameters.items():
            yield Layer.skipped(key, kind, _unknown_reason(kind, [value]))


def _weight_layer(name: str, module: nn.Module, weight: torch.Tensor, seen: dict[int, str]) -> Layer:
    kind = type(module).__name__
    if id(weight) in seen:
        return Layer.skipped(name, kind, f"shares its weight with {seen[id(weight)]}")
    seen[id(weight)] = name
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return Layer.skipped(name, kind, f"convolution in {module.groups} groups, not analysed yet")
    return tensor_layer(name, kind, weight)


def _unreadable(tensor: torch.Tensor) -> str:
    if nn.parameter.is_lazy(tensor):
        return f"not initialised yet, {LATER}"
    if tensor.is_meta:
        return f"on the meta device, {LATER}"
    if tensor.ndim not in (2, 4):
        return dimensions_reason(tensor.ndim)
    if tensor.dtype not in DTYPES:
        return f"weights of {tensor.dtype}, only real floating-point ones are analysed"
    if (type(tensor) not in (torch.Tensor, nn.Parameter) and not is_sharded(tensor)) or tensor.layout != torch.strided:
        return f"weights of class {type(tensor).__name__}, layout {tensor.layout}, not analysed yet"
    return ""


def _unknown_reason(kind: str, parameters: list[torch.Tensor]) -> str:
    if any(not nn.parameter.is_lazy(parameter) and parameter.ndim >= 2 for parameter in parameters):
        return f"{kind} is not analysed yet"
    if any(nn.parameter.is_lazy(parameter) for parameter in parameters):
        return f"not initialised yet, {LATER}"
    return dimensions_reason(1)


def _is_parametrization(name: str) -> bool:
    return "parametrizations" in name.split(".")
