"""Datasets of HDF5 files, also inside a ``.keras`` archive; checked before they are read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import h5py
import numpy as np

from ww_callbacks.weights.files import hdf5_walk, zips
from ww_callbacks.weights.files.errors import WeightsFileError, check_inflation, reading
from ww_callbacks.weights.files.remote import Location, RemotePath
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


def tree_of(path: Location) -> Tree:
    """All datasets of an HDF5 file or of a ``.keras`` archive.

    Raises:
        WeightsFileError: not such a file, damaged, or with references to other files (links, virtual datasets).
    """
    with reading(path):
        start, size = _place(path)
        status = _serve(path, start, size) if isinstance(path, RemotePath) else try_alone(str(path), start, size)
    if status < 0:
        raise WeightsFileError(
            path, f"damaged: the HDF5 library hangs or crashes on it ({signal.Signals(-status).name})"
        )
    with reading(path), _opened(path, start, size) as file:
        tree = Tree({}, {}, _text(file.attrs.get("model_config", "")))
        for name, item in hdf5_walk.walk(file):
            if isinstance(item, h5py.Group):
                tree.names[name] = _text(item.attrs.get("name", ""))
            else:
                tree.tensors[name] = _tensor(path, name, item)
    return tree


def _place(path: Location) -> tuple[int, int]:
    """Offset and size in bytes of the HDF5 file; size 0 for a whole file on this machine."""
    if not zips.is_zip(path):
        return 0, path.stat().st_size if isinstance(path, RemotePath) else 0
    with zips.opened(path) as archive, path.open("rb") as raw:
        member = archive.getinfo(MEMBER)
        if member.compress_type != zipfile.ZIP_STORED:
            raise WeightsFileError(path, f"{MEMBER!r} is compressed, which Keras never does")
        if not member.file_size:
            raise WeightsFileError(path, f"{MEMBER!r} is empty")
        return zips.start_of(path, raw, member), member.file_size


@contextmanager
def _opened(path: Location, start: int, size: int) -> Iterator[h5py.File]:
    if not isinstance(path, RemotePath):
        with hdf5_walk.opened(str(path), start, size) as file:
            yield file
        return
    with path.open("rb") as raw, hdf5_walk.opened_in(raw, start, size) as file:
        yield file


def try_alone(path: str, start: int, size: int) -> int:
    """Walk through a file in a separate process and return its exit status, negative for a signal.

    The process runs the module as a script, because importing this package would take longer than the walk.
    """
    if not sys.executable:
        return 0
    try:
        done = subprocess.run(
            _command(path, start, size),
            env=_environment(),
            timeout=hdf5_walk.LIMIT_SECONDS + 10,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -signal.SIGTERM
    return done.returncode


def _serve(path: RemotePath, start: int, size: int) -> int:
    """As :func:`try_alone`, for a file at a URL: the process asks for ranges, and this one reads them."""
    if not sys.executable:
        return 0
    process = subprocess.Popen(
        _command("", start, size),
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with suppress(BrokenPipeError), process, path.open("rb") as file:  # the pipe breaks if it crashes
        _answer(process, file)
    return process.returncode


def _answer(process: subprocess.Popen[bytes], file: IO[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        position, length = map(int, line.split())
        file.seek(position)
        process.stdin.write(file.read(length))
        process.stdin.flush()


def _command(path: str, start: int, size: int) -> list[str]:
    return [sys.executable, hdf5_walk.__file__, path, str(start), str(size)]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def _tensor(path: Location, name: str, dataset: h5py.Dataset) -> StoredTensor:
    if dataset.is_virtual or dataset.external:
        raise WeightsFileError(path, f"{name!r} keeps its numbers in other files, refused")
    shape = dataset.shape or ()
    dtype = dataset.dtype
    known = _text(dataset.attrs.get("dtype", "")) if dtype.kind == "V" else dtype.newbyteorder("=").name
    if known == "bfloat16" and dtype.itemsize != 2:
        raise WeightsFileError(path, f"{name!r}: {dtype} is not bfloat16")
    check_inflation(path, name, dataset.id.get_storage_size(), dataset.nbytes)
    return StoredTensor(name, shape, known or str(dtype), partial(_read, path, name, shape, dtype, known))


def _read(path: Location, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], known: str) -> Stored:
    with reading(path), _opened(path, *_place(path)) as file:
        array: Stored = file[name][()]
    if array.shape != shape or array.dtype != dtype:
        raise WeightsFileError(path, f"{name!r} has changed since it was measured")
    if known == "bfloat16":
        return array.view(np.uint16)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
