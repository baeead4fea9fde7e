"""Layers of a torch module."""

from __future__ import annotations

from ww_callbacks.weights.torch.modules import layers_of_module
from ww_callbacks.weights.torch.tensors import DTYPES, stored_array, tensor_layer

__all__ = ["DTYPES", "layers_of_module", "stored_array", "tensor_layer"]
