"""HDF5 files, also inside an archive: the datasets of the file itself, measured before they are read."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ww_callbacks.weights.files import zips
from ww_callbacks.weights.files.stored import WeightsFileError, check_inflation, reading
from ww_callbacks.weights.stored import Stored, StoredTensor

MEMBER = "model.weights.h5"
"""Where a ``.keras`` archive keeps its weights."""
MAX_DEPTH, MAX_OBJECTS = 64, 1_000_000


@dataclass(frozen=True, slots=True)
class Tree:
    """What an HDF5 file holds.

    Attributes:
        tensors: path in the file → dataset.
        names: path of a group → its attribute "name".
        config: the attribute "model_config" of the file, "" without one.
    """

    tensors: dict[str, StoredTensor]
    names: dict[str, str]
    config: str


def tree_of(path: Path) -> Tree:
    """All datasets of an HDF5 file or of a ``.keras`` archive.

    Raises:
        WeightsFileError: not such a file, damaged, or one that leads to other files: links and virtual datasets.
    """
    with reading(path), _opened(path) as file:
        tree = Tree({}, {}, _text(file.attrs.get("model_config", "")))
        for name, item in _walk(path, file, "", set()):
            if isinstance(item, h5py.Group):
                tree.names[name] = _text(item.attrs.get("name", ""))
            else:
                tree.tensors[name] = _tensor(path, name, item)
    return tree


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    if not zipfile.is_zipfile(path):
        with h5py.File(path, "r") as file:
            yield file
        return
    with zips.opened(path) as archive, path.open("rb") as raw:
        member = archive.getinfo(MEMBER)
        if member.compress_type != zipfile.ZIP_STORED:
            raise WeightsFileError(path, f"{MEMBER!r} is compressed, which Keras never does")
        start = zips.start_of(path, raw, member)
        with h5py.File(_Window(raw, start, member.file_size), "r") as file:
            yield file


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, raw: Any, start: int, size: int) -> None:
        self._raw, self._start, self._size, self._position = raw, start, size, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        self._raw.seek(self._start + self._position)
        count: int = self._raw.readinto(memoryview(buffer)[:wanted])
        self._position += count
        return count


def _walk(path: Path, group: h5py.Group, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Groups and datasets, each once, by hard links only."""
    for key in group:
        name = f"{prefix}/{key}" if prefix else key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise WeightsFileError(path, f"{name!r} is a link that may lead to another file, refused")
        item = group[key]
        place = h5py.h5o.get_info(item.id).addr
        if place in seen:
            continue
        seen.add(place)
        if name.count("/") > MAX_DEPTH or len(seen) > MAX_OBJECTS:
            raise WeightsFileError(path, f"more than {MAX_DEPTH} groups inside each other or {MAX_OBJECTS} objects")
        if isinstance(item, (h5py.Group, h5py.Dataset)):
            yield name, item
        if isinstance(item, h5py.Group):
            yield from _walk(path, item, name, seen)


def _tensor(path: Path, name: str, dataset: h5py.Dataset) -> StoredTensor:
    if dataset.is_virtual or dataset.external:
        raise WeightsFileError(path, f"{name!r} keeps its numbers in other files, refused")
    shape = dataset.shape or ()
    dtype = dataset.dtype
    known = _text(dataset.attrs.get("dtype", "")) if dtype.kind == "V" else dtype.newbyteorder("=").name
    if known == "bfloat16" and dtype.itemsize != 2:
        raise WeightsFileError(path, f"{name!r}: {dtype} is not bfloat16")
    check_inflation(path, name, dataset.id.get_storage_size(), dataset.nbytes)
    return StoredTensor(name, shape, known or str(dtype), partial(_read, path, name, shape, dtype, known))


def _read(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], known: str) -> Stored:
    with reading(path), _opened(path) as file:
        array: Stored = file[name][()]
    if array.shape != shape or array.dtype != dtype:
        raise WeightsFileError(path, f"{name!r} has changed since it was measured")
    if known == "bfloat16":
        return array.view(np.uint16)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
