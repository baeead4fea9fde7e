"""Safetensors files: a length, a JSON header, then the numbers. The whole header is validated first.

Writing needs no more than :func:`header_of`. The package safetensors would copy all numbers, or need torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ww_callbacks.weights.files.errors import WeightsFileError, check_empty, reading
from ww_callbacks.weights.files.part import stored_numbers
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.kernels import in_torch_order
from ww_callbacks.weights.tensor import PartOf, StoredTensor

MAX_HEADER_BYTES = 32 * 2**20
"""Largest header, enough for about 200,000 tensors."""

METADATA = "__metadata__"
"""The entry of the header that is no tensor: a mapping of texts."""

_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8}
_BITS |= {"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32}
_BITS |= {"F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64}
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
_NAMES |= {"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"}
_NAMES |= {"U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64"}
_NAMES |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}

CODES = {name: code for code, name in _NAMES.items()}
"""The dtypes of the format, by their names in numpy, torch or JAX."""


class Contents(NamedTuple):
    """The tensors of a file in file order, and its metadata."""

    tensors: list[StoredTensor]
    metadata: Mapping[str, Any]


def header_of(tensors: Sequence[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a file, up to the numbers, which follow one after the other in C order, little-endian.

    Args:
        tensors: name, dtype (one of ``CODES``) and shape of each, in the order of the numbers.
        metadata: any texts.

    Example:
        >>> header_of([("fc", "F32", (2, 3))], {})[8:]
        b'{"__metadata__":{},"fc":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}    '
    """
    header: dict[str, Any] = {METADATA: metadata}
    position = 0
    for name, dtype, shape in tensors:
        end = position + nbytes_of(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def nbytes_of(dtype: str, shape: Sequence[int]) -> int:
    """Size of the numbers of a tensor in bytes.

    Example:
        >>> nbytes_of("BF16", (2, 3))
        12
    """
    return math.prod(shape) * _BITS[dtype] // 8


def contents_of_safetensors(path: Location) -> Contents:
    """The tensors and the metadata of a file.

    Raises:
        WeightsFileError: the header is invalid: too long, not JSON, duplicate names, an unknown dtype, a size that
            does not fit shape and dtype, or offsets that overlap, leave gaps or exceed the file.
    """
    with reading(path):
        header, start, size = _header(path)
    empty = 0
    entries = []
    for name, entry in header.items():
        if name != METADATA:
            entries.append(_checked(path, name, entry))
            empty += entries[-1][3] == entries[-1][4]
            check_empty(path, empty)
    entries.sort(key=lambda entry: (entry[3], entry[4]))
    position = 0
    for name, _, _, begin, end in entries:
        if begin != position:
            problem = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
            raise WeightsFileError(path, f"tensor {name!r} {problem}")
        position = end
    if position != size:
        problem = "truncated: the" if position > size else "the"
        raise WeightsFileError(path, f"{problem} header describes {position} bytes, the file holds {size}")
    metadata = header.get(METADATA)
    if not isinstance(metadata, dict):
        metadata = {}
    parts = _parts(metadata)
    tensors = [_tensor(path, start, *entry) for entry in entries]
    if parts:
        tensors = [replace(tensor, part_of=parts.get(tensor.name)) for tensor in tensors]
    if metadata.get("format") == "mlx":
        tensors = [in_torch_order(tensor) for tensor in tensors]
    return Contents(tensors, metadata)


def _parts(metadata: Mapping[str, Any]) -> dict[str, PartOf]:
    """Name of a tensor → the weight of torchao of which it is a part. Descriptions that are none are left out.

    Example:
        >>> described = '{"_type": "Int8Tensor", "_data": {"block_size": [1, 64]}, "_tensor_data_names": ["qdata"]}'
        >>> _parts({"fc.weight": described, "tensor_names": '["fc.weight"]'})
        {'fc._weight_qdata': PartOf(weight='weight', name='qdata', cls='Int8Tensor', facts={'block_size': [1, 64]})}
    """
    parts: dict[str, PartOf] = {}
    if "tensor_names" not in metadata:
        return parts
    for name, text in metadata.items():
        try:
            described = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            continue
        if not isinstance(described, dict):
            continue
        cls, facts, names = (described.get(key) for key in ("_type", "_data", "_tensor_data_names"))
        if not isinstance(cls, str) or not isinstance(facts, dict) or not isinstance(names, list):
            continue
        module, _, weight = name.rpartition(".")
        for part in names:
            parts[f"{module}._{weight}_{part}" if module else f"_{weight}_{part}"] = PartOf(
                weight, str(part), cls, facts
            )
    return parts


def _header(path: Location) -> tuple[dict[str, Any], int, int]:
    """The header, the offset of the numbers, and their size in bytes."""
    total = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or length > total - 8:
            raise WeightsFileError(path, f"truncated: a header of {length} bytes in a file of {total}")
        if length > MAX_HEADER_BYTES:
            raise WeightsFileError(path, f"a header of {length} bytes, more than {MAX_HEADER_BYTES} are not read")
        header = json.loads(file.read(length).decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    if not isinstance(header, dict):
        raise WeightsFileError(path, f"the header is not an object but {type(header).__name__}")
    return header, 8 + length, total - 8 - length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice in the header")
    return result


def _no_constant(constant: str) -> None:
    raise ValueError(f"{constant} in the header")


def _checked(path: Location, name: str, entry: Any) -> tuple[str, str, tuple[int, ...], int, int]:
    """Name, dtype, shape, begin and end of a valid entry."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise WeightsFileError(path, f"tensor {name!r}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise WeightsFileError(path, f"tensor {name!r}: unknown dtype {str(dtype)[:40]!r}")
    if not _are_sizes(shape) or len(shape) > 32:
        raise WeightsFileError(path, f"tensor {name!r}: shape {str(shape)[:80]} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise WeightsFileError(path, f"tensor {name!r}: data_offsets {str(offsets)[:80]} are not begin and end")
    bits = math.prod(shape) * _BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        held = offsets[1] - offsets[0]
        raise WeightsFileError(
            path, f"tensor {name!r}: {dtype}{tuple(shape)} does not fit the {held} bytes of its offsets"
        )
    return name, dtype, tuple(shape), offsets[0], offsets[1]


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _tensor(
    path: Location, start: int, name: str, dtype: str, shape: tuple[int, ...], begin: int, end: int
) -> StoredTensor:
    return stored_numbers(path, name, _NAMES.get(dtype, dtype), shape, start + begin, end - begin)
