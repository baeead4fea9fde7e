"""Tensors that are named and measured before they are read, whatever holds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.report import Skip

Stored = NDArray[np.generic]

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""What can be analysed as it is stored."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file or a model.

    Attributes:
        name: as in the file.
        shape: as in the file.
        dtype: numpy name, "bfloat16" (read as raw 16-bit words), or the format's name of what numpy does not have.
        read: reads the numbers; None where they cannot be read.
        skip: why not.
        same_as: name of an earlier tensor that is the same memory.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Stored] | None = None
    skip: Skip | None = None
    same_as: str = ""
