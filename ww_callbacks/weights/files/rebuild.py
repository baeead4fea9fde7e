"""Descriptions of tensors in the pickles of ``torch.save``, recognised by the functions that would rebuild them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ww_callbacks.report import Skip
from ww_callbacks.weights.files import errors
from ww_callbacks.weights.files.pickles import Made, Name

_STORAGES = {
    **{"Double": ("float64", 8), "Float": ("float32", 4), "Half": ("float16", 2), "BFloat16": ("bfloat16", 2)},
    **{"Char": ("int8", 1), "Short": ("int16", 2), "Int": ("int32", 4), "Long": ("int64", 8), "Byte": ("uint8", 1)},
    **{"Bool": ("bool", 1), "ComplexFloat": ("complex64", 8), "ComplexDouble": ("complex128", 16)},
    **{"QInt8": ("qint8", 1), "QUInt8": ("quint8", 1), "QInt32": ("qint32", 4), "QUInt4x2": ("quint4x2", 1)},
    **{"QUInt2x4": ("quint2x4", 1), "Untyped": ("", 1)},
}
"""Class of a storage without "Storage" → dtype of torch, "" if the tensor states it, and bytes of a number."""
_CLASSES = {Name("torch", "Tensor"), Name("torch.nn.parameter", "Parameter"), Name("torch.nn.parameter", "Buffer")}
_HARMLESS = {Name("torch", "device"), Name("torch.serialization", "_get_layout")}


class Storage(NamedTuple):
    """Memory that tensors share.

    Attributes:
        key: its name in the file.
        dtype: of torch; "" if the tensors state it.
        first: number at which it begins in the storage of that key.
    """

    key: str
    dtype: str
    first: int = 0


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """The description of a tensor.

    Attributes:
        shape: of the tensor.
        dtype: of torch.
        storage: holds the numbers; None if the file does not say where they are.
        offset: of the first number in the storage, in numbers.
        strides: in numbers.
        cls: class, if it is not one of torch itself.
        inside: attributes of a tensor of such a class.
        skip: why the numbers cannot be read.
    """

    shape: tuple[int, ...]
    dtype: str
    storage: Storage | None = None
    offset: int = 0
    strides: tuple[int, ...] = ()
    cls: str = ""
    inside: Mapping[str, Any] = field(default_factory=dict)
    skip: Skip | None = None


class Rebuild:
    """Makes descriptions of tensors from the calls of a pickle.

    Attributes:
        storages: that the tensors use.
        objects: names of classes and functions that do not describe tensors.
        empty: number of tensors without numbers. Too many of them end the reading.
    """

    def __init__(self) -> None:
        self.storages: dict[Storage, None] = {}
        self.objects: dict[str, None] = {}
        self.empty = 0

    def __call__(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """What a call makes."""
        if not isinstance(function, Name):
            raise pickle.UnpicklingError(f"a call of {type(function).__name__}")
        if function == Name("torch._tensor", "_rebuild_from_type_v2"):
            inner, cls, inner_arguments, state = arguments
            return _of_class(self(inner, inner_arguments), cls, state)
        rebuild = _FUNCTIONS.get(function.name) if function.module == "torch._utils" else None
        if rebuild is not None:
            made = rebuild(*arguments)
            self.empty += isinstance(made, SavedTensor) and 0 in made.shape
            if self.empty > errors.MAX_EMPTY:
                raise pickle.UnpicklingError(f"more than {errors.MAX_EMPTY} tensors without numbers")
            return made
        if function not in _HARMLESS:
            self.objects[str(function)] = None
        return Made(function, arguments)

    def storage(self, identifier: Any) -> Any:
        """The storage of a persistent identifier; older files name classes of modules too."""
        if identifier[0] == "module":
            return identifier[1]
        kind, cls, key, _, count, *view = identifier
        if kind != "storage" or not isinstance(cls, Name) or not _is_size(count):
            raise pickle.UnpicklingError("an identifier that names no storage")
        dtype, _ = _STORAGES.get(cls.name.removesuffix("Storage"), (cls.name, 1))
        first = view[0][1] if view and isinstance(view[0], tuple) else 0
        storage = Storage(str(key), dtype, first if _is_size(first) else 0)
        self.storages[storage] = None
        return storage


def itemsize(dtype: str) -> int:
    """Bytes of a number in a storage; 1 if the dtype is not known."""
    return dict(_STORAGES.values()).get(dtype, 1)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def sizes_of(values: Any) -> tuple[int, ...]:
    """A shape or strides.

    Raises:
        pickle.UnpicklingError: not a list of at most 64 sizes.
    """
    if not isinstance(values, (tuple, list)) or len(values) > 64 or not all(map(_is_size, values)):
        raise pickle.UnpicklingError("a shape that is no list of sizes")
    return tuple(values)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any, dtype: str = "") -> SavedTensor:
    shape, strides = sizes_of(shape), sizes_of(strides)
    if not isinstance(storage, Storage) or not _is_size(offset) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor without a storage")
    facts = others[-1] if others and isinstance(others[-1], Mapping) else {}
    skip = Skip("unsupported_tensor", "a view that negates its numbers") if facts.get("neg") else None
    return SavedTensor(shape, dtype or storage.dtype or "uint8", storage, offset, strides, skip=skip)


def _tensor_with_dtype(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> SavedTensor:
    return _tensor(storage, offset, shape, strides, *others[3:], dtype=dtype_named(others[2]))


def dtype_named(value: Any) -> str:
    """The dtype that a description names."""
    return value.name if isinstance(value, Name) else str(value)


def _same(tensor: Any, *others: Any) -> Any:
    return tensor


def _without_numbers(dtype: Any, shape: Any, *others: Any) -> SavedTensor:
    skip = Skip("unreadable", "on the meta device, the file holds no numbers")
    return SavedTensor(sizes_of(shape), dtype_named(dtype), skip=skip)


def _sparse(layout: Any, data: Any, *others: Any) -> SavedTensor:
    name = layout.arguments[0] if isinstance(layout, Made) and layout.arguments else "sparse"
    parts = data if isinstance(data, tuple) else ()
    shape = next((sizes_of(part) for part in parts if isinstance(part, (tuple, list))), ())
    values = [part.dtype for part in parts if isinstance(part, SavedTensor)]
    return SavedTensor(shape, values[-1] if values else "", skip=Skip("unsupported_tensor", f"layout {name}"))


def _wrapper(cls: Any, dtype: Any, shape: Any, *others: Any) -> SavedTensor:
    return SavedTensor(sizes_of(shape), dtype_named(dtype), cls=str(cls))


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_with_dtype,
    "_rebuild_qtensor": _tensor,
    "_rebuild_parameter": _same,
    "_rebuild_parameter_with_state": _same,
    "_rebuild_device_tensor_from_cpu_tensor": _same,
    "_rebuild_meta_tensor_no_storage": _without_numbers,
    "_rebuild_sparse_tensor": _sparse,
    "_rebuild_wrapper_subclass": _wrapper,
}
"""The functions of ``torch._utils`` that rebuild tensors."""


def _of_class(tensor: Any, cls: Any, state: Any) -> Any:
    """A tensor of a class; its attributes are in its state, or in the first part of it."""
    if cls in _CLASSES or not isinstance(tensor, SavedTensor):
        return tensor
    attributes = state[0] if isinstance(state, tuple) and state else state
    inside = attributes if isinstance(attributes, Mapping) else {}
    skip = Skip("unsupported_tensor", f"class {cls.name if isinstance(cls, Name) else cls}")
    return replace(tensor, cls=str(cls), inside=inside, skip=skip)
