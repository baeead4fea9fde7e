"""Datasets of HDF5 files, also inside a ``.keras`` archive; checked before they are read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ww_callbacks.weights.files import hdf5_walk, zips
from ww_callbacks.weights.files.errors import WeightsFileError, check_inflation, reading
from ww_callbacks.weights.tensor import Stored, StoredTensor

MEMBER = "model.weights.h5"
"""The member of a ``.keras`` archive that holds the weights."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The content of an HDF5 file.

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
        WeightsFileError: not such a file, damaged, or with references to other files (links, virtual datasets).
    """
    with reading(path):
        place = _place(path)
        status = try_alone(*place)
    if status < 0:
        raise WeightsFileError(
            path, f"damaged: the HDF5 library hangs or crashes on it ({signal.Signals(-status).name})"
        )
    with reading(path), hdf5_walk.opened(*place) as file:
        tree = Tree({}, {}, _text(file.attrs.get("model_config", "")))
        for name, item in hdf5_walk.walk(file):
            if isinstance(item, h5py.Group):
                tree.names[name] = _text(item.attrs.get("name", ""))
            else:
                tree.tensors[name] = _tensor(path, name, item)
    return tree


def _place(path: Path) -> tuple[str, int, int]:
    """Path, offset and size in bytes of the HDF5 file; size 0 for the whole file."""
    if not zipfile.is_zipfile(path):
        return str(path), 0, 0
    with zips.opened(path) as archive, path.open("rb") as raw:
        member = archive.getinfo(MEMBER)
        if member.compress_type != zipfile.ZIP_STORED:
            raise WeightsFileError(path, f"{MEMBER!r} is compressed, which Keras never does")
        if not member.file_size:
            raise WeightsFileError(path, f"{MEMBER!r} is empty")
        return str(path), zips.start_of(path, raw, member), member.file_size


def try_alone(path: str, start: int, size: int) -> int:
    """Walk through a file in a separate process and return its exit status, negative for a signal.

    The process runs the module as a script, because importing this package would take longer than the walk.
    """
    if not sys.executable:
        return 0
    command = [sys.executable, hdf5_walk.__file__, path, str(start), str(size)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            timeout=hdf5_walk.LIMIT_SECONDS + 10,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -signal.SIGTERM
    return done.returncode


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
    with reading(path), hdf5_walk.opened(*_place(path)) as file:
        array: Stored = file[name][()]
    if array.shape != shape or array.dtype != dtype:
        raise WeightsFileError(path, f"{name!r} has changed since it was measured")
    if known == "bfloat16":
        return array.view(np.uint16)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
