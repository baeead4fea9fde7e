"""Archives of ``numpy.savez``; arrays of objects are refused, because they are pickles."""

from __future__ import annotations

import math
import zipfile
from functools import partial
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy

from ww_callbacks.report import Skip
from ww_callbacks.weights.files import zips
from ww_callbacks.weights.files.errors import WeightsFileError, check_empty, reading
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.tensor import FLOATS, Stored, StoredTensor

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]
_CHUNK = 2**20


def tensors_of_npz(path: Location) -> list[StoredTensor]:
    """The arrays in archive order, each checked against its header.

    Raises:
        WeightsFileError: not such an archive, an array of objects, or a size that does not fit shape and dtype.
    """
    with zips.opened(path) as archive:
        tensors, empty = [], 0
        for member in archive.infolist():
            tensors.append(_tensor(path, archive, member))
            empty += 0 in tensors[-1].shape
            check_empty(path, empty)
    return tensors


def _tensor(path: Location, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredTensor:
    with archive.open(member) as file:
        shape, fortran, dtype = _header(path, member.filename, file)
        body = member.file_size - file.tell()
    if math.prod(shape) * dtype.itemsize != body:
        raise WeightsFileError(path, f"{member.filename!r}: {dtype}{shape} does not fit the {body} bytes it holds")
    name, known = member.filename.removesuffix(".npy"), dtype.newbyteorder("=").name
    if known not in FLOATS and dtype.kind not in "iub":
        return StoredTensor(name, shape, known, skip=Skip("unsupported_dtype", known))
    return StoredTensor(name, shape, known, partial(_read, path, member, shape, fortran, dtype))


def _header(path: Location, name: str, file: IO[bytes]) -> Header:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise WeightsFileError(path, f"{name!r}: version {version} of the array format is not known")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise WeightsFileError(path, f"{name!r} holds Python objects, which would have to be unpickled: refused")
    if any(side < 0 for side in shape):
        raise WeightsFileError(path, f"{name!r}: shape {shape} is not a list of sizes")
    return shape, fortran, dtype


def _read(
    path: Location, member: zipfile.ZipInfo, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]
) -> Stored:
    """Read an array without the directory of the archive, which would be read again for each of them."""
    name = member.filename
    with reading(path), path.open("rb") as raw:
        raw.seek(zips.start_of(path, raw, member))
        with cast(IO[bytes], zipfile.ZipExtFile(raw, "r", member)) as file:
            if _header(path, name, file) != (shape, fortran, dtype):
                raise WeightsFileError(path, f"{name!r} has changed since its header was read")
            array = np.empty(math.prod(shape), dtype)
            _fill(path, name, file, array.view(np.uint8).data)
    native = array.astype(dtype.newbyteorder("="), copy=False)
    return native.reshape(shape[::-1]).T if fortran else native.reshape(shape)


def _fill(path: Location, member: str, file: IO[bytes], target: memoryview) -> None:
    position = 0
    while chunk := file.read(_CHUNK):  # zipfile verifies the checksum at the end
        if position + len(chunk) > len(target):
            raise WeightsFileError(path, f"{member!r} holds more than its header says")
        target[position : position + len(chunk)] = chunk
        position += len(chunk)
    if position != len(target):
        raise WeightsFileError(path, f"truncated: {member!r} ends early")
