"""GGUF files of llama.cpp: a header, then the numbers of each tensor, mostly in quantised blocks.

The header is read here, because ``gguf.GGUFReader`` trusts the counts and lengths in it. The package ``gguf`` supplies
the block sizes and multiplies the blocks out. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import IO, Any, NamedTuple

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ww_callbacks.report import Skip
from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.part import Part
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.tensor import Stored, StoredTensor, sliced

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 64 * 2**20
"""Largest header, with several times the vocabulary of the largest models."""
_MAX_NAME_BYTES = 65_535
_MAX_DIMENSIONS = 4
_MAX_NESTING = 4
_CHUNK = 2**20
"""Numbers that are multiplied out at once, and bytes of the header that are read at once."""

_LENGTH = struct.Struct("<Q")
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, _UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value in the metadata → its bytes."""

_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_INTEGERS = ("I8", "I16", "I32", "I64")


class _Entry(NamedTuple):
    """What the header says about a tensor: name, shape with the outputs first, type, and offset among the numbers."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


def tensors_of_gguf(path: Location) -> list[StoredTensor]:
    """The tensors in file order, with the shapes of torch: (outputs, inputs).

    Raises:
        WeightsFileError: the header is invalid: an unknown version, counts or lengths that exceed the file, duplicate
            names, a shape that does not fill whole blocks, or offsets that overlap, leave gaps or exceed the file.
    """
    with reading(path), path.open("rb") as file:
        size = path.stat().st_size
        header = _Header(path, file, size)
        entries, alignment = header.contents()
    start = _aligned(header.position, alignment)
    _check_places(path, entries, alignment, size - start)
    return [_tensor(path, start, entry) for entry in entries]


@dataclass
class _Header:
    """Reads the header from its start; every length is compared with the file before it is used.

    Attributes:
        path: of the file.
        file: opened for reading.
        size: of the file in bytes.
        data: the first bytes of the file, as many as were needed so far.
        position: of the next byte to read.
    """

    path: Location
    file: IO[bytes]
    size: int
    data: bytes = b""
    position: int = 0

    def contents(self) -> tuple[list[_Entry], int]:
        """The entries of the tensors, and the alignment of their numbers."""
        if self._take(4) != MAGIC:
            raise self._error("not a GGUF file")
        version = self._number("I")
        if version not in (2, 3):
            raise self._error(f"version {version} of GGUF is not known, or the file is for big-endian computers")
        tensors, values = self._count(24), self._count(13)
        alignment = self._alignment(values)
        entries = [self._entry() for _ in range(tensors)]
        if len({entry.name for entry in entries}) != tensors:
            raise self._error("a tensor name occurs twice in the header")
        return entries, alignment

    def _alignment(self, values: int) -> int:
        """Pass all metadata; the alignment is the only value that is needed."""
        alignment = 32
        for _ in range(values):
            key, kind = self._text(), self._number("I")
            if key == "general.alignment" and kind == _UINT32:
                alignment = self._number("I")
            else:
                self._pass(kind)
        if alignment == 0 or alignment % 8:
            raise self._error(f"an alignment of {alignment} bytes is not a multiple of 8")
        return alignment

    def _pass(self, kind: int, depth: int = 0) -> None:
        """Pass a value of the metadata."""
        if kind in _SIZES:
            self._skip(_SIZES[kind])
        elif kind == _STRING:
            self._skip(self._number("Q"))
        elif kind == _ARRAY and depth < _MAX_NESTING:
            inner = self._number("I")
            count = self._count(_SIZES.get(inner, 8))
            if inner in _SIZES:
                self._skip(count * _SIZES[inner])
            elif inner == _STRING:
                self._pass_strings(count)
            else:
                for _ in range(count):
                    self._pass(inner, depth + 1)
        else:
            raise self._error(f"type {kind} in the metadata is not known, or nested more than {_MAX_NESTING} times")

    def _pass_strings(self, count: int) -> None:
        """Pass strings. A vocabulary has hundreds of thousands, so this loop is short."""
        position, last = self.position, len(self.data) - 8
        for _ in range(count):
            if position > last:
                self._load(position + 8)
                last = len(self.data) - 8
            if position > last:
                position += 8
                break
            position += 8 + _LENGTH.unpack_from(self.data, position)[0]
        self._skip(position - self.position)

    def _entry(self) -> _Entry:
        name, rank = self._text(), self._number("I")
        if rank > _MAX_DIMENSIONS:
            raise self._error(f"tensor {name[:80]!r} has {rank} dimensions, more than {_MAX_DIMENSIONS}")
        lengths = [self._number("Q") for _ in range(rank)]
        if any(length >= 2**63 for length in lengths):
            raise self._error(f"tensor {name[:80]!r}: dimensions {lengths} are not a list of sizes")
        return _Entry(name, tuple(reversed(lengths)), self._number("I"), self._number("Q"))

    def _count(self, least: int) -> int:
        """A number of things that take at least ``least`` bytes each."""
        count = self._number("Q")
        if count * least > self.size - self.position:
            raise self._error(f"truncated: its header claims {count} entries in a file of {self.size} bytes")
        return count

    def _text(self) -> str:
        length = self._number("Q")
        if length > _MAX_NAME_BYTES:
            raise self._error(f"a name of {length} bytes, more than {_MAX_NAME_BYTES} are not read")
        return self._take(length).decode()

    def _number(self, format: str) -> int:
        begin = self._skip(struct.calcsize(format))  # may read more data
        (number,) = struct.unpack_from(f"<{format}", self.data, begin)
        return int(number)

    def _take(self, length: int) -> bytes:
        begin = self._skip(length)
        return self.data[begin : begin + length]

    def _skip(self, length: int) -> int:
        """Pass bytes and return where they begin."""
        begin, end = self.position, self.position + length
        if end > self.size:
            raise self._error(f"truncated: its header needs {end} bytes of a file of {self.size}")
        self._load(end)
        if end > len(self.data):
            raise self._error(f"a header of more than {MAX_HEADER_BYTES} bytes is not read")
        self.position = end
        return begin

    def _load(self, end: int) -> None:
        """Read up to this byte and as much again, as far as the file and the limit go."""
        held = len(self.data)
        if held < end <= min(self.size, MAX_HEADER_BYTES):
            self.data += self.file.read(min(max(end, 2 * held, _CHUNK), MAX_HEADER_BYTES) - held)

    def _error(self, cause: str) -> WeightsFileError:
        return WeightsFileError(self.path, cause)


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _check_places(path: Location, entries: list[_Entry], alignment: int, held: int) -> None:
    """The tensors follow each other in the order of the header, as ggml requires."""
    position, is_known = 0, True
    for entry in entries:
        expected, name = _aligned(position, alignment), entry.name[:80]
        if entry.offset < expected:
            raise WeightsFileError(path, f"tensor {name!r} overlaps the tensor before it")
        if entry.offset % alignment or (entry.offset > expected and is_known):
            raise WeightsFileError(path, f"tensor {name!r} leaves a gap before it")
        is_known = _type(entry) is not None
        position = entry.offset + (_num_bytes(path, entry) if is_known else 0)
        if position > held:
            cause = f"truncated: tensor {name!r} ends at byte {position} of {max(held, 0)} bytes of numbers"
            raise WeightsFileError(path, cause)


def _type(entry: _Entry) -> GGMLQuantizationType | None:
    """The type of a tensor; None if this version of the package does not know it."""
    known = entry.type in GGMLQuantizationType.__members__.values()
    found = GGMLQuantizationType(entry.type) if known else None
    return found if found in GGML_QUANT_SIZES else None


def _num_bytes(path: Location, entry: _Entry) -> int:
    """What a tensor of a known type occupies. Its rows consist of whole blocks."""
    kind = GGMLQuantizationType(entry.type)
    numbers: int
    size: int
    numbers, size = GGML_QUANT_SIZES[kind]
    if math.prod(entry.shape[-1:]) % numbers:
        cause = f"tensor {entry.name[:80]!r}: rows of shape {entry.shape} are not whole blocks of {numbers} {kind.name}"
        raise WeightsFileError(path, cause)
    return math.prod(entry.shape) // numbers * size


def _tensor(path: Location, start: int, entry: _Entry) -> StoredTensor:
    name, shape, kind, offset = entry.name, entry.shape, _type(entry), start + entry.offset
    if kind is None:
        skip = Skip("quantized", f"type {entry.type} of GGUF, which this version of the package gguf does not know")
        return StoredTensor(name, shape, f"type {entry.type}", skip=skip)
    if kind.name in _FLOATS:
        dtype = _FLOATS[kind.name]
        return StoredTensor(name, shape, dtype, Part(path, offset, shape, _storage(dtype)))
    if kind.name in _INTEGERS:
        return StoredTensor(name, shape, kind.name, skip=Skip("unsupported_dtype", kind.name))
    if not _has_dequantize(kind):
        return StoredTensor(name, shape, kind.name, skip=Skip("quantized", kind.name))
    return StoredTensor(name, shape, "float32", _Blocks(path, offset, shape, kind))


@cache
def _has_dequantize(kind: GGMLQuantizationType) -> bool:
    """Whether the package can multiply a type out, tried with one block."""
    try:
        dequantize(np.zeros(GGML_QUANT_SIZES[kind][1], np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _storage(dtype: str) -> np.dtype[Any]:
    return np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Reads quantised numbers and multiplies them out.

    Attributes:
        path: of the file.
        offset: of the first block, in bytes.
        shape: of the numbers.
        kind: type of the blocks.
    """

    path: Location
    offset: int
    shape: tuple[int, ...]
    kind: GGMLQuantizationType

    def __call__(self) -> Stored:
        """The numbers, read block by block, so that the packed form is never in memory as a whole."""
        numbers, size = GGML_QUANT_SIZES[self.kind]
        array, step = np.empty(math.prod(self.shape), np.float32), _CHUNK // numbers
        with reading(self.path), self.path.open("rb") as file, np.errstate(all="ignore"):  # infinities are told later
            file.seek(self.offset)
            for begin in range(0, array.size, step * numbers):
                part = array[begin : begin + step * numbers]
                blocks = np.empty(part.size // numbers * size, np.uint8)
                if file.readinto(blocks.data) != blocks.size:
                    raise WeightsFileError(self.path, "truncated: it has become shorter since its header was read")
                part[:] = dequantize(blocks, self.kind)
            return array.reshape(self.shape)

    def narrow(self, axis: int, start: int, size: int) -> Callable[[], Stored]:
        """A reader of ``size`` entries along an axis; along the first one only these are read."""
        if axis != 0 or len(self.shape) < 2:
            return partial(sliced, self, axis, start, size)
        numbers, nbytes = GGML_QUANT_SIZES[self.kind]
        row = math.prod(self.shape[1:]) // numbers * nbytes
        return replace(self, offset=self.offset + start * row, shape=(size, *self.shape[1:]))
