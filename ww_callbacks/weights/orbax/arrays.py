"""Arrays of the package tensorstore: zarr of version 2 or 3, in a folder each or all in one database (OCDBT)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorstore

from ww_callbacks.report import Skip
from ww_callbacks.weights.combined import float8
from ww_callbacks.weights.files.errors import check_inflation, reading
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.tensor import Stored, StoredTensor

Driver = Literal["zarr", "zarr3"]

CACHE_BYTES = 64 * 2**20
"""What tensorstore may keep of the databases of a checkpoint."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how the arrays of a tree are stored.

    Attributes:
        folder: of the tree.
        driver: version of zarr.
        is_database: whether all are in one database.
        is_complete: whether each part of an array is stored; otherwise missing ones are zeros.
    """

    folder: Location
    driver: Driver
    is_database: bool
    is_complete: bool


def opened(place: Place, names: Sequence[str]) -> list[StoredTensor]:
    """The arrays of a tree, with shape and dtype but without their numbers.

    Args:
        place: of the tree.
        names: of the arrays, that do not lead out of the folder.

    Raises:
        WeightsFileError: an array that is missing or damaged, or whose shape needs more than the files can hold.
    """
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
    with reading(place.folder):
        stored = _num_bytes(place.folder)
        opening = [tensorstore.open(_spec(place, name), open=True, read=True, context=context) for name in names]
    return [_tensor(place.folder, name, future, stored) for name, future in zip(names, opening, strict=True)]


def _spec(place: Place, name: str) -> dict[str, Any]:
    """What tensorstore opens. Nothing in it comes from the checkpoint but the name."""
    base = {"driver": "file", "path": f"{place.folder}/"}
    inside = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    store = inside if place.is_database else base | {"path": f"{place.folder}/{name}/"}
    return {"driver": place.driver, "kvstore": store, "fill_missing_data_reads": not place.is_complete}


def _num_bytes(folder: Location) -> int:
    assert isinstance(folder, Path)  # those at a URL are refused
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _tensor(folder: Location, name: str, opening: Any, stored: int) -> StoredTensor:
    with reading(folder, f"array {name[:80]!r} cannot be read"):
        store = opening.result()
        shape, dtype, chunks = tuple(store.shape), store.dtype.name, store.chunk_layout
        for sides in (shape, chunks.read_chunk.shape or (), chunks.write_chunk.shape or ()):
            check_inflation(folder, name[:80], stored, math.prod(sides) * store.dtype.numpy_dtype.itemsize)
    if not _is_known(dtype):
        return StoredTensor(name, shape, dtype, skip=Skip("unsupported_dtype", dtype))
    is_float8 = dtype in float8.TABLES
    return StoredTensor(name, shape, "float16" if is_float8 else dtype, Array(folder, name, store), is_float8=is_float8)


def _is_known(dtype: str) -> bool:
    if dtype in ("bfloat16", *float8.TABLES):
        return True
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        return False
    return found.name == dtype and found.kind in "fiub"


@dataclass(frozen=True, slots=True)
class Array:
    """Reads an array.

    Attributes:
        folder: of the checkpoint.
        name: of the array.
        store: of tensorstore.
    """

    folder: Location
    name: str
    store: tensorstore.TensorStore

    def __call__(self) -> Stored:
        """The numbers; bfloat16 as raw words.

        Raises:
            WeightsFileError: a part is missing or damaged.
        """
        with reading(self.folder, f"array {self.name[:80]!r} cannot be read"):
            numbers: Stored = np.asarray(self.store.read().result())
        dtype = numbers.dtype.name
        if dtype in float8.TABLES:
            return float8.decode(numbers.view(np.uint8), dtype)
        return numbers.view(np.uint16) if dtype == "bfloat16" else numbers

    def narrow(self, axis: int, start: int, size: int) -> Callable[[], Stored]:
        """A reader of ``size`` entries along an axis; only the parts with these are read."""
        return replace(self, store=self.store[(slice(None),) * axis + (slice(start, start + size),)])
