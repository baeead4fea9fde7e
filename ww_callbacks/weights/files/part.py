"""A part of a file that holds numbers one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.tensor import Stored, sliced


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
        native = array.reshape(self.shape).astype(self.dtype.newbyteorder("="), copy=False)
        return native if self.decode is None else self.decode(native)

    def narrow(self, axis: int, start: int, size: int) -> Callable[[], Stored]:
        """A reader of ``size`` entries along an axis; along the first one only these are read."""
        if axis != 0:
            return partial(sliced, self, axis, start, size)
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return replace(self, offset=self.offset + start * row, shape=(size, *self.shape[1:]))
