"""Modules of ``torch.ao`` with packed weights: dequantised by their own methods, or skipped."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ww_callbacks.report import Skip
from ww_callbacks.weights.kinds import OUT_IN, Kind, grouped_convolution
from ww_callbacks.weights.torch.effective import Weight
from ww_callbacks.weights.torch.rules import foreign

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


@lru_cache(4096)  # parametrised modules have a class each
def _is(cls: type, package: str, names: tuple[str, ...]) -> bool:
    return any(base is not None and issubclass(cls, base) for base in (foreign(package, name) for name in names))


def _weight(module: Any) -> Weight:
    return Weight(tuple(module.weight().shape), torch.float32, partial(_dequantised, module), id(module))


def _dequantised(module: Any) -> Tensor:
    weight: Tensor = module.weight()
    return weight.dequantize().float()
