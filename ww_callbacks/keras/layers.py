"""Which variables belong to a layer, and the partner layer of each normalisation."""

from __future__ import annotations

from typing import Any

import keras

from ww_callbacks.signals.partners import find_partners
from ww_callbacks.weights.keras.model import walk

Owners = dict[int, str]
"""``id`` of a trainable variable → name of its layer; a shared variable belongs to the first layer."""


def owners_of(model: keras.Model) -> Owners:
    """The layer of each trainable variable, including biases and low-rank additions.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
        >>> list(owners_of(model).values())
        ['head', 'head']
    """
    owners: Owners = {}
    for name, layer in walk(model):
        for variable in layer._trainable_variables:
            owners.setdefault(id(variable), name)
    return owners


def partners_of(model: keras.Model) -> dict[str, str]:
    """Normalisation layer → the layer whose learning rate it gets, see :func:`find_partners`.

    A layer is a normalisation if the name of its class says so and it holds only vectors.
    """
    names, norms = [], set()
    for name, layer in walk(model):
        own = layer._trainable_variables
        if any(len(variable.shape) > 1 for variable in own):
            names.append(name)
        elif own and _is_norm(layer):
            names.append(name)
            norms.add(name)
    return find_partners(names, norms)


def _is_norm(layer: Any) -> bool:
    return "norm" in type(layer).__name__.lower()
