"""Numbers in files: how they are stored, and readers of those that lie together or at regular distances."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.report import Skip
from ww_callbacks.weights.combined import float8
from ww_callbacks.weights.combined.packing import powers_of_two
from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.tensor import Stored, StoredTensor, sliced

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_AS_STORED = frozenset({"float16", "float32", "float64", "bool", *_INTEGERS})
"""Dtypes that numpy has too."""


class Form(NamedTuple):
    """How numbers are stored and read.

    Attributes:
        dtype: of the numbers that are read, as in :class:`~ww_callbacks.weights.tensor.StoredTensor`.
        storage: dtype in which they are stored.
        decode: turns codes into numbers; None for numbers.
    """

    dtype: str
    storage: np.dtype[Any]
    decode: Callable[[NDArray[np.uint8]], Stored] | None = None


def form_of(dtype: str) -> Form | None:
    """How the numbers of a dtype are stored and read; None if they cannot be read.

    Args:
        dtype: its name in numpy, torch or JAX.

    Example:
        >>> form_of("bfloat16"), form_of("complex64")
        (Form(dtype='bfloat16', storage=dtype('uint16'), decode=None), None)
    """
    if dtype in float8.TABLES:
        return Form("float16", np.dtype(np.uint8), partial(float8.decode, dtype=dtype))
    if dtype == "float8_e8m0fnu":
        return Form("float32", np.dtype(np.uint8), powers_of_two)
    if dtype == "bfloat16":
        return Form(dtype, np.dtype(np.uint16))
    return Form(dtype, np.dtype(dtype)) if dtype in _AS_STORED else None


def numbers(path: Location, dtype: np.dtype[Any], count: int, offset: int) -> NDArray[Any]:
    """Numbers that lie one after the other in a file.

    Args:
        path: of the file.
        dtype: of the numbers.
        count: how many there are.
        offset: of the first one, in bytes.

    Raises:
        WeightsFileError: the file has become shorter.
    """
    with reading(path), path.open("rb") as file:
        array = np.empty(count, dtype)
        file.seek(offset)
        if file.readinto(array.view(np.uint8).data) != array.nbytes:
            raise WeightsFileError(path, "truncated: it has become shorter since its header was read")
    return array


@dataclass(frozen=True, slots=True)
class Part:
    """Reads numbers that lie one after the other in a file.

    Attributes:
        path: of the file.
        offset: of the first number, in bytes.
        shape: of the array.
        dtype: in which they are stored.
        decode: turns codes into numbers; None for numbers.
    """

    path: Location
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    decode: Callable[[NDArray[np.uint8]], Stored] | None = None

    def __call__(self) -> Stored:
        """The numbers.

        Raises:
            WeightsFileError: the file has become shorter.
        """
        array = numbers(self.path, self.dtype, math.prod(self.shape), self.offset)
        with reading(self.path):
            native = array.reshape(self.shape).astype(self.dtype.newbyteorder("="), copy=False)
        return native if self.decode is None else self.decode(native)

    def narrow(self, axis: int, start: int, size: int) -> Callable[[], Stored]:
        """A reader of ``size`` entries along an axis; along the first one only these are read."""
        if axis != 0:
            return partial(sliced, self, axis, start, size)
        return self.rows(start, size)

    def rows(self, start: int, size: int) -> Part:
        """``size`` entries along the first axis."""
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return replace(self, offset=self.offset + start * row, shape=(size, *self.shape[1:]))


@dataclass(frozen=True, slots=True)
class Strided:
    """Reads numbers of a file that do not have to follow each other, such as those of a transposed tensor.

    Attributes:
        path: of the file.
        offset: of the first number, in bytes.
        shape: of the array.
        strides: from number to number along each axis, in numbers, at least 0.
        dtype: in which they are stored.
        decode: turns codes into numbers; None for numbers.
    """

    path: Location
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    decode: Callable[[NDArray[np.uint8]], Stored] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes from the first number to the last one."""
        return self._count * self.dtype.itemsize

    @property
    def _count(self) -> int:
        if not math.prod(self.shape):
            return 0
        return 1 + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))

    def __call__(self) -> Stored:
        """The numbers.

        Raises:
            WeightsFileError: the file has become shorter.
        """
        array = numbers(self.path, self.dtype, self._count, self.offset)
        if array.size:
            steps = [stride * self.dtype.itemsize for stride in self.strides]
            array = np.lib.stride_tricks.as_strided(array, self.shape, steps)
        with reading(self.path):
            native = array.reshape(self.shape).astype(self.dtype.newbyteorder("="), copy=False)
        return native if self.decode is None else self.decode(native)

    def narrow(self, axis: int, start: int, size: int) -> Strided:
        """A reader of ``size`` entries along an axis."""
        offset = self.offset + start * self.strides[axis] * self.dtype.itemsize
        return replace(self, offset=offset, shape=(*self.shape[:axis], size, *self.shape[axis + 1 :]))


@dataclass(frozen=True, slots=True)
class Joined:
    """Reads an array that is stored in several flat parts, one after the other.

    Attributes:
        parts: at least one.
        shape: of the array.
    """

    parts: tuple[Part, ...]
    shape: tuple[int, ...]

    def __call__(self) -> Stored:
        """The numbers, one part in memory beside them at a time."""
        first = self.parts[0]()
        array, position = np.empty(math.prod(self.shape), first.dtype), 0
        for part in self.parts:
            numbers = first if part is self.parts[0] else part()
            array[position : position + numbers.size] = numbers
            position += numbers.size
        with reading(self.parts[0].path):
            return array.reshape(self.shape)

    def narrow(self, axis: int, start: int, size: int) -> Callable[[], Stored]:
        """A reader of ``size`` entries along an axis; along the first one only these are read."""
        if axis != 0:
            return partial(sliced, self, axis, start, size)
        row = math.prod(self.shape[1:])
        begin, end, position = start * row, (start + size) * row, 0
        parts: list[Part] = []
        for part in self.parts:
            first, last = max(begin - position, 0), min(end - position, part.shape[0])
            if first < last:
                parts.append(part.rows(first, last - first))
            position += part.shape[0]
        return replace(self, parts=tuple(parts) or (self.parts[0].rows(0, 0),), shape=(size, *self.shape[1:]))


def stored_numbers(
    path: Location, name: str, dtype: str, shape: tuple[int, ...], offset: int, num_bytes: int
) -> StoredTensor:
    """A tensor whose numbers lie one after the other in a file.

    Args:
        path: of the file.
        name: of the tensor.
        dtype: its name in numpy or JAX.
        shape: of the tensor.
        offset: of the first number, in bytes.
        num_bytes: that the file holds of it.

    Raises:
        WeightsFileError: shape and dtype need other than ``num_bytes`` bytes.
    """
    form = form_of(dtype)
    if form is None:
        return StoredTensor(name, shape, dtype, skip=Skip("unsupported_dtype", dtype))
    storage = form.storage.newbyteorder("<")
    if math.prod(shape) * storage.itemsize != num_bytes:
        sizes = str(shape)[:80]
        raise WeightsFileError(
            path, f"tensor {name[:80]!r}: {dtype}{sizes} does not fit the {num_bytes} bytes it holds"
        )
    read = Part(path, offset, shape, storage, form.decode)
    return StoredTensor(name, shape, form.dtype, read, is_float8=form.decode is not None)
