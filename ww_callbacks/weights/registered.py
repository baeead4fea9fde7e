"""Layers of classes that only their authors know: how to get at their matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ww_callbacks.weights.kinds import OUT_IN, Kind, convolution, layers_of_kind
from ww_callbacks.weights.layer import Layer, dimensions_reason
from ww_callbacks.weights.tensor import Stored, StoredTensor

Extract = Callable[[Any], Any]

_extractors: dict[type, Extract] = {}


def register_layer(cls: type, extract: Extract | None) -> None:
    """Say which matrices the layers of a class hold.

    Applies to the class and its subclasses, before any rule of ww_callbacks, to all models that are looked at from
    now on. Layers inside such a layer are still found on their own.

    Args:
        cls: class of a torch module or a Keras layer.
        extract: gets the layer and gives its weight, or a mapping suffix → weight where it holds several. A weight is
            a tensor or array: a matrix (outputs, inputs), or a kernel (outputs, inputs, positions…). It is called at
            each snapshot and must change nothing. None takes a registration back.

    Raises:
        TypeError: ``cls`` is no class, or ``extract`` cannot be called.

    Example:
        >>> import torch
        >>> import ww_callbacks as ww
        >>> class Experts(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stack = torch.nn.Parameter(torch.randn(2, 60, 80))  # (experts, inputs, outputs)
        >>> ww.register_layer(Experts, lambda layer: {str(i): w.T for i, w in enumerate(layer.stack)})
        >>> [(layer.name, layer.N, layer.M) for layer in ww.analyze(torch.nn.Sequential(Experts()))]
        [('0.0', 80, 60), ('0.1', 80, 60)]
        >>> ww.register_layer(Experts, None)
    """
    if not isinstance(cls, type):
        raise TypeError(f"cls: expected a class, got {cls!r}")
    if extract is None:
        _extractors.pop(cls, None)
        return
    if not callable(extract):
        raise TypeError(f"extract: expected a function of a layer, got {extract!r}")
    _extractors[cls] = extract


def extractor_of(layer: object) -> Extract | None:
    """What was registered for the class of a layer, or for the nearest class above it."""
    return next((_extractors[cls] for cls in type(layer).__mro__ if cls in _extractors), None)


def extracted(extract: Extract, layer: object) -> dict[str, Any]:
    """Suffix → weight.

    Raises:
        TypeError: a suffix is not a string.
    """
    result = extract(layer)
    weights = dict(result) if isinstance(result, Mapping) else {"": result}
    for suffix in weights:
        if not isinstance(suffix, str):
            raise TypeError(f"expected suffixes that are strings, got {suffix!r}")
    return weights


def registered_kind(word: str, rank: int, shape: tuple[int, ...]) -> Kind:
    """What a weight of a registered layer is, by its number of dimensions."""
    if rank < 2:
        return Kind(word, reason=dimensions_reason(rank))
    return Kind(word, OUT_IN) if rank == 2 else convolution(word, shape, channels_last=False)


def array_layers(name: str, word: str, layer: object, extract: Extract, to_array: Callable[[Any], Any]) -> list[Layer]:
    """The layers that a registered one makes, of weights that become arrays.

    Args:
        name: of the layer.
        word: its class.
        layer: the layer.
        extract: what was registered.
        to_array: a weight → an array.
    """
    try:
        weights = {suffix: np.asarray(to_array(value)) for suffix, value in extracted(extract, layer).items()}
    except Exception as error:
        return [Layer.skipped(name, word, failure(word, error))]
    layers: list[Layer] = []
    for suffix, array in weights.items():
        full = f"{name}.{suffix}" if suffix else name
        tensor = StoredTensor(full, array.shape, array.dtype.name, partial(_read, extract, layer, suffix, to_array))
        layers += layers_of_kind(full, registered_kind(word, array.ndim, array.shape), tensor)
    return layers


def failure(word: str, error: Exception) -> str:
    """Why a layer is skipped whose extractor raises."""
    return f"what was registered for {word} fails: {type(error).__name__}: {error}"


def _read(extract: Extract, layer: object, suffix: str, to_array: Callable[[Any], Any]) -> Stored:
    array: Stored = np.asarray(to_array(extracted(extract, layer)[suffix]))
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array
