"""The arrays of a checkpoint of Orbax as tensors that are read later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.networks import networks_in_tree
from ww_callbacks.weights.orbax.arrays import Driver, Place, opened
from ww_callbacks.weights.orbax.folders import DATABASE, TREE, trees_in
from ww_callbacks.weights.tensor import StoredTensor

MAX_TREE_BYTES = 64 * 2**20
_MAX_DEPTH = 64
_ARRAYS = ("jax.Array", "np.ndarray")
"""Types of values that are arrays; others are numbers, texts and empty mappings."""

Keys = tuple[str, ...]


def tensors_of_orbax(folder: Location) -> list[StoredTensor]:
    """The arrays of a checkpoint without those of optimizers, named by their keys joined by dots.

    Args:
        folder: of the checkpoint, of one of its items, or of a ``CheckpointManager`` with one step.

    Raises:
        WeightsFileError: no such checkpoint, several steps, without weights, a description that is damaged or leads
            out of the folder, or arrays that are missing, damaged, or larger than the files can hold.
    """
    trees = {name: _tree(each) for name, each in trees_in(folder).items()}
    trees = {name: tree for name, tree in trees.items() if tree}
    with reading(folder):
        found = networks_in_tree(next(iter(trees.values())) if len(trees) == 1 else trees)
    if not found:
        raise WeightsFileError(folder, "holds no weights")
    return [replace(tensor, name=name) for name, tensor in found.items()]


class _Description(NamedTuple):
    """What a tree holds: its arrays by their keys, and how they are stored."""

    arrays: Sequence[Keys]
    place: Place


def _tree(folder: Location) -> dict[str, Any]:
    """The arrays of one tree, in nested mappings."""
    path = folder / TREE
    with reading(path, "not the description of a tree"):
        if path.stat().st_size > MAX_TREE_BYTES:
            raise WeightsFileError(path, f"a description of more than {MAX_TREE_BYTES} bytes")
        described = _described(folder, json.loads(path.read_text(encoding="utf-8")))
        names = [".".join(keys) for keys in described.arrays]
        if len(set(names)) < len(names):
            raise WeightsFileError(path, "an array is described twice")
        for name in names:
            _check_inside(path, name)
    tensors = opened(described.place, names)
    nested: dict[str, Any] = {}
    with reading(path, "not the description of a tree"):
        for keys, tensor in zip(described.arrays, tensors, strict=True):
            inner = nested
            for key in keys[:-1]:
                inner = inner.setdefault(key, {})
            inner[keys[-1]] = tensor
    return nested


def _described(folder: Location, content: Any) -> _Description:
    """What the description says; any error means that it is none."""
    arrays = list(_arrays(content["tree_metadata"]))
    is_complete = content.get("store_array_data_equal_to_fill_value") is True
    driver: Driver = "zarr3" if content.get("use_zarr3") else "zarr"
    return _Description(arrays, Place(folder, driver, (folder / DATABASE).is_file(), is_complete))


def _arrays(entries: Mapping[str, Any]) -> Iterator[Keys]:
    for entry in entries.values():
        keys = tuple(str(key["key"]) for key in entry["key_metadata"])
        value = entry["value_metadata"]
        if not 0 < len(keys) <= _MAX_DEPTH:
            raise ValueError(f"an entry has {len(keys)} keys")
        if value["value_type"] in _ARRAYS and not value.get("skip_deserialize"):
            yield keys


def _check_inside(path: Location, name: str) -> None:
    """Refuse a name that, as the path of a folder, leads out of the checkpoint."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
        raise WeightsFileError(path, f"{name[:80]!r} leads out of the folder, refused")
