"""Stored tensors of ONNX: in the message itself or in a file beside the model; nothing outside its folder is opened."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from ww_callbacks.report import Skip
from ww_callbacks.weights.combined import float8
from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.part import numbers
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.tensor import Stored, StoredTensor

Bytes = NDArray[np.uint8]


class _Type(NamedTuple):
    """How numbers are stored: what a reader returns, bits of each, and where they are if not in ``raw_data``."""

    dtype: str
    bits: int
    field: str = "int32_data"


_TYPES = {
    "FLOAT": _Type("float32", 32, "float_data"),
    "DOUBLE": _Type("float64", 64, "double_data"),
    "FLOAT16": _Type("float16", 16),
    "BFLOAT16": _Type("bfloat16", 16),
    "FLOAT8E4M3FN": _Type("float8_e4m3fn", 8),
    "FLOAT8E5M2": _Type("float8_e5m2", 8),
    "INT16": _Type("int16", 16),
    "UINT16": _Type("uint16", 16),
    "INT8": _Type("int8", 8),
    "UINT8": _Type("uint8", 8),
    "INT4": _Type("int4", 4),
    "UINT4": _Type("uint4", 4),
}
"""Types that can be read: floats, and the integers of quantised weights."""


class Place(NamedTuple):
    """Bytes in a file."""

    path: Location
    offset: int
    size: int


def stored_tensor(
    path: Location, proto: TensorProto, raw: Place | None, again: Callable[[], TensorProto]
) -> StoredTensor:
    """A tensor that is read later.

    Args:
        path: of the model.
        proto: the tensor, with or without its numbers.
        raw: where its ``raw_data`` is, if ``proto`` is without it.
        again: reads the whole tensor once more.

    Raises:
        WeightsFileError: its shape is no list of sizes or does not fit its numbers, or these are outside the folder of
            the model or outside their file.
    """
    name, shape = text(proto.name), tuple(proto.dims)
    if len(shape) > 32 or any(side < 0 for side in shape):
        raise WeightsFileError(path, f"tensor {name[:80]!r}: shape {str(shape)[:80]} is not a list of sizes")
    kind = _type_name(proto.data_type)
    known = _TYPES.get(kind)
    if known is None:
        return StoredTensor(name, shape, kind, skip=Skip("unsupported_dtype", kind))
    expected = -(-math.prod(shape) * known.bits // 8)
    if proto.data_location == TensorProto.EXTERNAL:
        raw = _external(path, proto, expected)
    held = _num_bytes(proto, known) if raw is None else raw.size
    if held != expected:
        raise WeightsFileError(path, f"tensor {name[:80]!r}: {kind}{shape} does not fit the {held} bytes it holds")
    load = partial(_in_message, path, again, known) if raw is None else partial(_in_file, raw)
    dtype = "float16" if known.dtype in float8.TABLES else known.dtype
    return StoredTensor(name, shape, dtype, partial(_read, path, load, shape, known.dtype))


def text(value: str | bytes) -> str:
    """A text of a message.

    Raises:
        ValueError: its bytes are no UTF-8; protobuf returns them then as they are.
    """
    if isinstance(value, bytes):
        raise ValueError(f"a name is not UTF-8: {value[:40]!r}")
    return value


def _type_name(number: int) -> str:
    names = TensorProto.DataType.DESCRIPTOR.values_by_number
    return str(names[number].name) if number in names else f"type {number}"


def _num_bytes(proto: TensorProto, kind: _Type) -> int:
    if proto.HasField("raw_data"):
        return len(proto.raw_data)
    return len(getattr(proto, kind.field)) * max(kind.bits, 8) // 8


def _external(path: Location, proto: TensorProto, expected: int) -> Place:
    """Where the numbers of a tensor are in a file beside the model."""
    entries = {text(entry.key): text(entry.value) for entry in proto.external_data}
    location = entries.get("location", "")
    what = f"tensor {proto.name[:80]!r}: its file {location[:80]!r}"
    if _leads_out(location):
        raise WeightsFileError(path, f"{what} leads out of the folder, refused")
    target = path.parent / location
    with reading(path, f"{what} cannot be read"):
        if not target.exists():
            raise WeightsFileError(path, f"{what} does not exist")
        found = target.stat()
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", expected))
    if not stat.S_ISREG(found.st_mode):
        raise WeightsFileError(path, f"{what} is not a file")
    if offset < 0 or length < 0 or offset + length > found.st_size:
        cause = f"{what} has {found.st_size} bytes, not {length} from byte {offset} on"
        raise WeightsFileError(path, cause)
    return Place(target, offset, length)


def _leads_out(location: str) -> bool:
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    is_absolute = posix.is_absolute() or bool(windows.drive or windows.root)
    return not posix.parts or is_absolute or ".." in posix.parts or ".." in windows.parts or "\0" in location


def _in_file(place: Place) -> Bytes:
    return numbers(place.path, np.dtype(np.uint8), place.size, place.offset)


def _in_message(path: Location, again: Callable[[], TensorProto], kind: _Type) -> Bytes:
    proto = again()
    if proto.HasField("raw_data"):
        return np.frombuffer(proto.raw_data, np.uint8)
    if kind.field != "int32_data":
        return np.array(getattr(proto, kind.field), f"<f{kind.bits // 8}").view(np.uint8)
    return np.array(proto.int32_data, np.int32).astype(f"<u{max(kind.bits, 8) // 8}").view(np.uint8)


def _read(path: Location, load: Callable[[], Bytes], shape: tuple[int, ...], dtype: str) -> Stored:
    with reading(path):
        return _decoded(load(), math.prod(shape), dtype).reshape(shape)


def _decoded(data: Bytes, count: int, dtype: str) -> Stored:
    """The numbers in the dtype of the tensor; 4-bit integers in 8 bits, bfloat16 as raw words."""
    if dtype in float8.TABLES:
        return float8.decode(data, dtype)
    if dtype in ("int4", "uint4"):  # the first of two numbers is in the lower half of a byte
        halves = np.stack([data & 15, data >> 4], axis=-1).ravel()[:count]
        return halves if dtype == "uint4" else ((halves ^ 8).view(np.int8) - 8).astype(np.int8)
    storage: np.dtype[Any] = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")
    return data.view(storage).astype(storage.newbyteorder("="), copy=False)
