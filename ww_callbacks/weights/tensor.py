"""Tensors with name, shape and dtype that are read later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.report import Skip

Stored = NDArray[np.generic]

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Dtypes that can be analysed as stored."""

OBJECT = "object"
"""The dtype of what a file holds in place of a tensor."""


@dataclass(frozen=True, slots=True)
class PartOf:
    """What a file says about a tensor that is a part of a quantised weight.

    Attributes:
        weight: name of the weight within its module.
        name: of the part.
        cls: class of the weight.
        facts: what else is known of the weight.
    """

    weight: str
    name: str
    cls: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file or a model.

    Attributes:
        name: as in the file.
        shape: as in the file.
        dtype: numpy name, "bfloat16" (read as raw 16-bit words), or the name in the format if numpy has none.
        read: reads the numbers; None if they cannot be read.
        skip: why they cannot be read.
        same_as: name of an earlier tensor with the same memory, "" without one.
        is_float8: whether the numbers are stored in eight bits; they are read in a larger dtype.
        part_of: of which weight the tensor is a part, if the file says it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Stored] | None = None
    skip: Skip | None = None
    same_as: str = ""
    is_float8: bool = False
    part_of: PartOf | None = None


def sliced(read: Callable[[], Stored], axis: int, start: int, size: int) -> Stored:
    """``size`` entries of an array along an axis.

    Example:
        >>> sliced(lambda: np.arange(6).reshape(2, 3), 1, 1, 2).tolist()
        [[1, 2], [4, 5]]
    """
    return read()[(slice(None),) * axis + (slice(start, start + size),)]
