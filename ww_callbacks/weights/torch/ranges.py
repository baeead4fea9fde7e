"""Archives of ``torch.save`` at URLs. torch reads an archive from a file, so it gets one without the numbers."""

from __future__ import annotations

import contextlib
import math
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from tempfile import NamedTemporaryFile
from typing import IO

import numpy as np
import torch

from ww_callbacks.weights.files import zips
from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.part import numbers
from ww_callbacks.weights.files.remote import RemotePath
from ww_callbacks.weights.tensor import Stored
from ww_callbacks.weights.torch.tensors import stored_array

_CHUNK = 2**20
_MARK = 8
"""Bytes of an offset."""


@contextlib.contextmanager
def without_numbers(path: RemotePath) -> Iterator[IO[bytes]]:
    """A temporary file like an archive, of the same size, with zeros that need no memory in place of the numbers.

    Raises:
        WeightsFileError: its numbers are in the byte order of other computers. torch would change it in memory.
    """
    with zips.opened(path) as archive, path.open("rb") as raw, NamedTemporaryFile(suffix=".pt") as target:
        target.truncate(path.stat().st_size)
        end = 0
        for member in archive.infolist():
            start = zips.start_of(path, raw, member)
            end = max(end, start + member.file_size)
            _check_order(path, archive, member)
            is_numbers = PurePosixPath(member.filename).parent.name == "data"
            _copy(raw, target, member.header_offset, start if is_numbers else start + member.file_size)
        _copy(raw, target, end, path.stat().st_size)  # the directory of the archive
        target.flush()
        yield target


def begin_in_memory(path: RemotePath, file: IO[bytes], storages: Sequence[torch.UntypedStorage]) -> int:
    """Where a file without numbers begins in memory.

    Several members may have the size of a storage. So the offset of each member is written to its first bytes, which
    mapped memory shows.

    Args:
        path: of the archive.
        file: the file without numbers, which torch has loaded.
        storages: mapped from it.

    Raises:
        WeightsFileError: the archive holds no tensor of at least eight bytes.
    """
    largest = max(storages, key=lambda storage: storage.nbytes(), default=None)
    if largest is None or largest.nbytes() < _MARK:
        raise WeightsFileError(path, f"holds no tensor of {_MARK} bytes or more")
    with zips.opened(path) as archive, path.open("rb") as raw:
        for member in archive.infolist():
            if member.file_size >= _MARK:
                start = zips.start_of(path, raw, member)
                file.seek(start)
                file.write(start.to_bytes(_MARK, "little"))
    file.flush()
    return int(largest.data_ptr()) - int.from_bytes(bytes(largest[:_MARK].tolist()), "little")


def _check_order(path: RemotePath, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    if PurePosixPath(member.filename).name == "byteorder":
        order = zips.contents(path, archive, member.filename, 16).decode()
        if order != sys.byteorder:
            cause = f"its byte order is {order!r}, which is not read at a URL; download the file and pass its path"
            raise WeightsFileError(path, cause)


def _copy(source: IO[bytes], target: IO[bytes], begin: int, end: int) -> None:
    source.seek(begin)
    target.seek(begin)
    for position in range(begin, end, _CHUNK):
        target.write(source.read(min(_CHUNK, end - position)))


@dataclass(frozen=True, slots=True)
class Strided:
    """Reads the numbers of a tensor, from its first to its last one.

    Attributes:
        path: of the archive.
        offset: of the first number, in bytes; any if there are none.
        shape: of the tensor.
        strides: of the tensor, in numbers.
        dtype: of the tensor.
    """

    path: RemotePath
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def __call__(self) -> Stored:
        """The numbers as they are stored."""
        if not math.prod(self.shape):
            return stored_array(torch.empty(self.shape, dtype=self.dtype))
        last = sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        data = numbers(self.path, np.dtype(np.uint8), (last + 1) * self.dtype.itemsize, self.offset)
        with reading(self.path):
            return stored_array(torch.from_numpy(data).view(self.dtype).as_strided(self.shape, self.strides))

    def narrow(self, axis: int, start: int, size: int) -> Strided:
        """A reader of ``size`` entries along an axis."""
        offset = self.offset + start * self.strides[axis] * self.dtype.itemsize
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        return Strided(self.path, offset, shape, self.strides, self.dtype)
