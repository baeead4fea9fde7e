"""Finds the layers of a model at each snapshot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ww_callbacks.weights import find_layers
from ww_callbacks.weights.layer import Layer, select_layers
from ww_callbacks.weights.split import Split


class _Found(NamedTuple):
    facts: list[object]
    objects: list[object]
    layers: tuple[Layer, ...]


class LayerFinder:
    """Finds the layers of a model as :func:`find_layers` and :func:`select_layers` do.

    The layers of a torch module are searched for again only if the module has changed: a look whether it has takes a
    tenth of the time.

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
        if not _is_torch_only(self._model):
            return self._search()
        from ww_callbacks.weights.torch.facts import facts_of, is_plain

        facts, objects = facts_of(self._model)
        if self._found is None or self._found.facts != facts:
            layers, self._found = self._search(), None
            if not is_plain(self._model):
                return layers
            self._found = _Found(facts, objects, layers)
        return self._found.layers

    def _search(self) -> tuple[Layer, ...]:
        return select_layers(find_layers(self._model, split=self._split), self._patterns)


def _is_torch_only(model: Any) -> bool:
    """Whether a model is a torch module, and not one of Keras."""
    torch, keras = sys.modules.get("torch"), sys.modules.get("keras")
    is_torch = torch is not None and isinstance(model, torch.nn.Module)
    return is_torch and not (keras is not None and isinstance(model, keras.layers.Layer))
