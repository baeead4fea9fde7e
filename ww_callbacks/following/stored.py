"""The layers of checkpoints, read where they are analysed: in this process, or in that of an executor's worker."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.following.scan import GONE, Version, version_of
from ww_callbacks.weights import Layer, Split, find_layers, select_layers
from ww_callbacks.weights.files.remote import Location, RemotePath, located


class Selection(NamedTuple):
    """Which layers of a checkpoint are analysed.

    Attributes:
        layers: patterns of their names; None for all.
        split: how to split fused projections.
    """

    layers: Sequence[str] | None = None
    split: Split | None = None


def place_of(path: Location) -> str:
    """The path or URL of a checkpoint, for other processes. It may hold secrets."""
    return path.url if isinstance(path, RemotePath) else str(path)


def layers_at(path: str, selection: Selection) -> Mapping[str, Layer]:
    """The layers of a checkpoint by name. Its description is read once in each process for each version of it.

    Raises:
        ValueError: it cannot be read, or a pattern matches no layer.
        OSError: it is gone.
    """
    return _layers_at(path, version_of(located(path)), json.dumps(selection))


@lru_cache(maxsize=3)
def _layers_at(path: str, version: Version, selection: str) -> dict[str, Layer]:
    patterns, split = json.loads(selection)
    return {layer.name: layer for layer in select_layers(find_layers(path, split=split), patterns)}


def read_layer(path: str, name: str, selection: Selection) -> NDArray[Any]:
    """The weights of a layer of a checkpoint.

    Args:
        path: or URL of the checkpoint.
        name: of the layer.
        selection: of the layers.

    Raises:
        ValueError: it cannot be read.
        OSError: the checkpoint is gone.
    """
    layer = layers_at(path, selection)[name]
    assert layer.read is not None
    return layer.read()


def read_rows(paths: Sequence[str], spec: LayerSpec, selection: Selection) -> NDArray[Any]:
    """The weights of a layer at several checkpoints, one row for each; a row of zeros where they cannot be read.

    The digests of what was analysed tell later whether they are those of the checkpoints.

    Args:
        paths: or URLs of the checkpoints.
        spec: description of the layer.
        selection: of the layers.

    Raises:
        OSError: a folder cannot be read now, or a server is away.
    """
    rows = np.zeros((len(paths), *spec.shape), spec.storage_dtype)
    for row, path in zip(rows, paths, strict=True):
        with suppress(ValueError, *GONE):
            layer = layers_at(path, selection).get(spec.name)
            if layer is not None and layer.spec == spec and layer.read is not None:
                np.copyto(row, layer.read())
    return rows
