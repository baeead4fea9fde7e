"""Modules with quantised weights: those of ``torch.ao`` by their own methods, others from codes and scales."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ww_callbacks.report import Skip
from ww_callbacks.weights.combined import CODES, combine
from ww_callbacks.weights.kinds import OUT_IN, Kind, grouped_convolution
from ww_callbacks.weights.tensor import StoredTensor
from ww_callbacks.weights.torch.effective import Weight, named_tensor
from ww_callbacks.weights.torch.rules import foreign
from ww_callbacks.weights.torch.tensors import is_float8, stored_dtype

_AO = "torch.ao.nn.quantized"
_CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
_RECURRENT = ("RNNBase", "RNNCellBase")


def packed(word: str, module: nn.Module) -> tuple[Weight | None, Kind] | None:
    """The weight of such a module and its kind; None for other modules."""
    cls: Any = type(module)
    if _is(cls, _AO, ("Linear",)):
        return _weight(module), Kind(word, OUT_IN)
    if _is(cls, _AO, _CONVOLUTIONS):
        weight = _weight(module)
        is_transposed = "Transpose" in type(module).__name__
        return weight, grouped_convolution(word, weight.shape, int(module.groups), is_transposed)  # type: ignore[arg-type]
    if _is(cls, f"{_AO}.dynamic.modules.rnn", _RECURRENT):
        return None, Kind(word, role="recurrent", skip=Skip("quantized", "packed gates"))
    return None


def multiplied_out(module: nn.Module, weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The weights of a module, those in codes multiplied out with their scales as in a file.

    Args:
        module: any module.
        weights: name → weight, as the module stores them.
    """
    if not has_codes(module):
        return dict(weights)
    parts: dict[str, Any] = {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
    module._save_to_state_dict(parts, "", True)  # some keep scales in an attribute
    tensors = [named_tensor(name, value, {}) for name, value in parts.items() if isinstance(value, Tensor)]
    kept = {id(tensor) for tensor in tensors}
    combined = combine(tensors)
    left = {tensor.name for tensor in combined if id(tensor) in kept}
    found = {tensor.name: _combined_weight(tensor, module) for tensor in combined if id(tensor) not in kept}
    return {name: weight for name, weight in weights.items() if name in left or name not in parts} | found


def has_codes(module: nn.Module) -> bool:
    """Whether a module may hold a weight in codes."""
    tensors = (*module._parameters.values(), *module._buffers.values())
    return any(tensor is not None and tensor.ndim >= 2 and _is_code(tensor.dtype) for tensor in tensors)


def _is_code(dtype: torch.dtype) -> bool:
    return is_float8(dtype) or stored_dtype(dtype) in CODES


def _combined_weight(tensor: StoredTensor, module: nn.Module) -> Weight:
    return Weight(tensor.shape, torch.float32, partial(_read, tensor), (id(module), tensor.name), tensor.skip)


def _read(tensor: StoredTensor) -> Tensor:
    assert tensor.read is not None
    return torch.from_numpy(tensor.read())


@lru_cache(4096)  # parametrised modules have a class each
def _is(cls: type, package: str, names: tuple[str, ...]) -> bool:
    return any(base is not None and issubclass(cls, base) for base in (foreign(package, name) for name in names))


def _weight(module: Any) -> Weight:
    return Weight(tuple(module.weight().shape), torch.float32, partial(_dequantised, module), id(module))


def _dequantised(module: Any) -> Tensor:
    weight: Tensor = module.weight()
    return weight.dequantize().float()
