"""A part of a file that holds numbers one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.tensor import Stored, sliced


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

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    decode: Callable[[NDArray[np.uint8]], Stored] | None = None

    def __call__(self) -> Stored:
        """The numbers.

        Raises:
            WeightsFileError: the file has become shorter.
        """
        with reading(self.path):
            array = np.fromfile(self.path, self.dtype, math.prod(self.shape), offset=self.offset)
        if array.size != math.prod(self.shape):
            raise WeightsFileError(self.path, "truncated: it has become shorter since its header was read")
        native = array.reshape(self.shape).astype(self.dtype.newbyteorder("="), copy=False)
        return native if self.decode is None else self.decode(native)

    def narrow(self, axis: int, start: int, size: int) -> Callable[[], Stored]:
        """A reader of ``size`` entries along an axis; along the first one only these are read."""
        if axis != 0:
            return partial(sliced, self, axis, start, size)
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return replace(self, offset=self.offset + start * row, shape=(size, *self.shape[1:]))
