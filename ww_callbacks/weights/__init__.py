"""Find the layers of a model and the matrices in their weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from ww_callbacks.weights.arrays import layers_of_mapping
from ww_callbacks.weights.layer import Layer, select_layers
from ww_callbacks.weights.split import Split, split_layers

__all__ = ["Layer", "Split", "find_layers", "select_layers"]


def find_layers(model: Any, split: Split | None = None) -> tuple[Layer, ...]:
    """Every layer of a model that holds weights, in model order, including those without a matrix.

    Args:
        model: a torch module, a Keras model, a mapping name → array (two-dimensional a matrix, four-dimensional a
            convolution kernel in torch's order), or the path or URL of a weights file or of a folder
            with one.
        split: patterns of fused projections → number of equal parts, or the size of each.

    Raises:
        TypeError: the model is of no known kind.
        ValueError: a pattern of ``split`` matches no layer, or its sizes do not fit.
        WeightsFileError: a path or URL that cannot be read as weights.
    """
    return split_layers(_found(model), split)


def _found(model: Any) -> tuple[Layer, ...]:
    if isinstance(model, (str, os.PathLike)):
        from ww_callbacks.weights.files import layers_of_path

        return layers_of_path(model)
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.layers.Layer):  # before torch: some are torch modules as well
        from ww_callbacks.weights.keras.model import layers_of_keras

        return layers_of_keras(model)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from ww_callbacks.weights.torch import layers_of_module

        return layers_of_module(model)
    if isinstance(model, Mapping):
        return layers_of_mapping(model)
    raise TypeError(
        f"model: expected a torch module, a Keras model, a mapping name -> array or a path, got {type(model).__name__}"
    )
