"""The tensors of a module that may be parts of one weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis import decoded
from ww_callbacks.report import Skip
from ww_callbacks.weights.tensor import FLOATS, StoredTensor, sliced

Group = Mapping[str, StoredTensor]
"""Tensors of one module by their name within it, such as "weight" and "weight.absmax"."""

Config = Mapping[str, Any]
"""The ``quantization_config`` beside a file; empty if there is none."""

Numbers = NDArray[np.float32]


class UnfitError(Exception):
    """Parts that do not make a weight; the message says why."""


@dataclass(frozen=True, slots=True)
class Combined:
    """A weight made of several tensors.

    Attributes:
        name: of the weight within its module.
        parts: names of the tensors within the module that belong to it, the main one first.
        shape: of the weight.
        read: multiplies it out.
        skip: why it cannot be; None if it can.
        dtype: of the numbers that are read.
    """

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]] | None = None
    skip: Skip | None = None
    dtype: str = "float32"

    def tensor(self, module: str) -> StoredTensor:
        """The weight as a tensor of its module."""
        name = f"{module}.{self.name}" if module else self.name
        return StoredTensor(name, self.shape, self.dtype, self.read, self.skip)


Recogniser = Callable[[Group, Config], Iterator[Combined]]
"""Finds weights that are stored in one format."""


def module_of(name: str, names: Mapping[str, Any]) -> str:
    """The module to which a tensor belongs: that of the weight of which it is a part.

    Args:
        name: of the tensor.
        names: of all tensors.

    Example:
        >>> module_of("fc.weight.absmax", {"fc.weight": 0}), module_of("fc.parametrizations.weight.original0", {})
        ('fc', 'fc')
    """
    parts = name.split(".")
    for position in range(1, len(parts)):
        if parts[position - 1] in ("parametrizations", "weight") or ".".join(parts[:position]) in names:
            return ".".join(parts[: position - 1])
    return ".".join(parts[:-1])


def grouped(tensors: Sequence[StoredTensor]) -> dict[str, dict[str, StoredTensor]]:
    """The tensors by module and name within it."""
    names = {tensor.name: tensor for tensor in tensors}
    groups: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in names.items():
        module = module_of(name, names)
        groups.setdefault(module, {})[name[len(module) + 1 :] if module else name] = tensor
    return groups


def numbers(tensor: StoredTensor) -> Numbers:
    """The numbers of a tensor in single precision.

    Raises:
        UnfitError: it has none.
    """
    require_real(tensor)
    assert tensor.read is not None
    return np.asarray(decoded(tensor.read(), tensor.dtype), np.float32)


def codes(tensor: StoredTensor) -> NDArray[Any]:
    """The integers of a tensor.

    Raises:
        UnfitError: it has none.
    """
    if tensor.read is None or not tensor.dtype.startswith(("int", "uint")):
        raise UnfitError(f"{tensor.name} of dtype {tensor.dtype}")
    return tensor.read()


@dataclass(frozen=True, slots=True)
class Stack:
    """Reads a weight whose parts are stacked along the first axis, or some of the stack.

    Attributes:
        compute: multiplies the parts out.
        parts: the tensors.
        length: of the first axis.
    """

    compute: Callable[..., Numbers]
    parts: tuple[StoredTensor, ...]
    length: int

    def __call__(self) -> Numbers:
        """The whole weight."""
        return self.compute(*self.parts)

    def narrow(self, axis: int, start: int, size: int) -> Callable[[], NDArray[Any]]:
        """A reader of ``size`` entries along an axis; along the first one only these are read."""
        if axis != 0:
            return partial(sliced, self, axis, start, size)
        parts = tuple(_narrowed(part, start, size) if part.shape[0] == self.length else part for part in self.parts)
        return Stack(self.compute, parts, size)


def _narrowed(tensor: StoredTensor, start: int, size: int) -> StoredTensor:
    read = tensor.read
    assert read is not None
    narrow = getattr(read, "narrow", None)
    part = partial(sliced, read, 0, start, size) if narrow is None else narrow(0, start, size)
    return replace(tensor, shape=(size, *tensor.shape[1:]), read=part)


def require_real(tensor: StoredTensor) -> None:
    """Raise :class:`UnfitError` unless the tensor holds real numbers, integers or truth values."""
    is_real = tensor.dtype in FLOATS or tensor.dtype.startswith(("int", "uint", "bool"))
    require(is_real and tensor.read is not None, f"{tensor.name} of dtype {tensor.dtype}")


def require_floats(*tensors: StoredTensor) -> None:
    """Raise :class:`UnfitError` unless the tensors hold floating-point numbers."""
    for tensor in tensors:
        require(tensor.dtype in FLOATS and tensor.read is not None, f"{tensor.name} of dtype {tensor.dtype}")


def require(condition: bool, problem: str) -> None:
    """Raise :class:`UnfitError` unless the condition holds."""
    if not condition:
        raise UnfitError(problem)
