"""Finds the layers of a model at each snapshot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ww_callbacks.weights import find_layers
from ww_callbacks.weights.layer import Layer, select_layers
from ww_callbacks.weights.split import Split


class _Found(NamedTuple):
    facts: list[object]
    objects: list[object]
    layers: tuple[Layer, ...]


class LayerFinder:
    """Finds the layers of a model as :func:`find_layers` and :func:`select_layers` do.

    The layers of a torch module, and of a mapping of arrays, are searched for again only if it has changed: a look
    whether it has takes a tenth of the time.

    Args:
        model: see :func:`find_layers`.
        patterns: of the layers to analyse; None for all.
        split: see :func:`find_layers`.

    Example:
        >>> import numpy as np
        >>> find = LayerFinder({"fc": np.ones((80, 60)), "head": np.ones((60, 10))}, ["fc"])
        >>> [(layer.name, layer.skip is None) for layer in find()]
        [('fc', True), ('head', False)]
    """

    def __init__(self, model: Any, patterns: Sequence[str] | None = None, split: Split | None = None) -> None:
        self._model, self._patterns, self._split = model, patterns, split
        self._found: _Found | None = None

    def __call__(self) -> tuple[Layer, ...]:
        """The layers now.

        Raises:
            TypeError: the model is of no known kind.
            ValueError: a pattern matches no layer.
        """
        if _is_torch_only(self._model):
            from ww_callbacks.weights.torch.facts import facts_of, is_plain

            return self._known(*facts_of(self._model), lambda: is_plain(self._model))
        if isinstance(self._model, Mapping):
            return self._known(*_facts_of_mapping(self._model), lambda: _are_arrays(self._model.values()))
        return self._search()

    def _known(self, facts: list[object], objects: list[object], is_plain: Callable[[], bool]) -> tuple[Layer, ...]:
        """The layers found before if the facts are the same and all that the layers depend on."""
        if self._found is None or self._found.facts != facts:
            layers, self._found = self._search(), None
            if not is_plain():
                return layers
            self._found = _Found(facts, objects, layers)
        return self._found.layers

    def _search(self) -> tuple[Layer, ...]:
        return select_layers(find_layers(self._model, split=self._split), self._patterns)


def _facts_of_mapping(arrays: Mapping[Any, Any]) -> tuple[list[object], list[object]]:
    """Names, identities and forms of arrays, and the arrays, which keep their identities as long as they are kept."""
    return [(name, id(value), *_form(value)) for name, value in arrays.items()], list(arrays.values())


def _form(value: Any) -> tuple[object, ...]:
    if type(value) is np.ndarray:
        return value.shape, value.dtype, value.strides
    return (value.shape, value.dtype, value.stride(), value.data_ptr()) if _is_tensor(value) else ()


def _are_arrays(values: Iterable[Any]) -> bool:
    """Whether all values are arrays or ordinary tensors, which are read again at each snapshot; lists are not."""
    return all(type(value) is np.ndarray or _is_tensor(value) for value in values)


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and type(value) in (torch.Tensor, torch.nn.Parameter)


def _is_torch_only(model: Any) -> bool:
    """Whether a model is a torch module, and not one of Keras."""
    torch, keras = sys.modules.get("torch"), sys.modules.get("keras")
    is_torch = torch is not None and isinstance(model, torch.nn.Module)
    return is_torch and not (keras is not None and isinstance(model, keras.layers.Layer))
