"""Messages of protobuf by their place in a file. The package ``onnx`` would read all weights to find one.

The encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, NamedTuple

MAX_FIELDS = 2**20
"""Most fields of one message, such as the nodes and initialisers of a graph."""
_VARINT_BYTES = 10
_FIXED = {1: 8, 5: 4}
_VARINT, _LENGTH = 0, 2


class Field(NamedTuple):
    """A field: its number, where it starts, and where its content begins and ends."""

    number: int
    start: int
    begin: int
    end: int


def fields(file: IO[bytes], begin: int, end: int) -> Iterator[Field]:
    r"""The fields of a message, in the order of the file.

    Args:
        file: opened for reading; its position changes.
        begin: first byte of the message.
        end: the byte behind it.

    Raises:
        ValueError: not a message of protobuf, more than ``MAX_FIELDS`` fields, or one that exceeds the message.

    Example:
        >>> import io
        >>> [tuple(field) for field in fields(io.BytesIO(b"\x08\x96\x01\x12\x02hi"), 0, 7)]
        [(1, 0, 1, 3), (2, 3, 5, 7)]
    """
    position = begin
    for _ in range(MAX_FIELDS):
        if position == end:
            return
        field = _field(file, position)
        if field.end > end:
            raise ValueError(f"truncated: a field ends at byte {field.end}, its message at byte {end}")
        yield field
        position = field.end
    raise ValueError(f"a message of more than {MAX_FIELDS} fields is not read")


def content(file: IO[bytes], begin: int, end: int) -> bytes:
    """The bytes of a message."""
    file.seek(begin)
    return file.read(end - begin)


def without(file: IO[bytes], begin: int, end: int, number: int) -> tuple[bytes, Field | None]:
    """The bytes of a message without the fields of that number, and the last of these."""
    pieces, left_out = [], None
    for field in fields(file, begin, end):
        if field.number == number:
            left_out = field
        else:
            pieces.append(content(file, field.start, field.end))
    return b"".join(pieces), left_out


def _field(file: IO[bytes], start: int) -> Field:
    head = content(file, start, start + 2 * _VARINT_BYTES)
    tag, used = _varint(head, 0)
    number, kind = tag >> 3, tag & 7
    if kind == _VARINT:
        return Field(number, start, start + used, start + _varint(head, used)[1])
    if kind == _LENGTH:
        length, used = _varint(head, used)
        return Field(number, start, start + used, start + used + length)
    if kind in _FIXED:
        return Field(number, start, start + used, start + used + _FIXED[kind])
    raise ValueError(f"not a message of protobuf: a field of type {kind} at byte {start}")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of variable length, and the position behind it."""
    value = 0
    for i, byte in enumerate(data[position : position + _VARINT_BYTES]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, position + i + 1
    raise ValueError("not a message of protobuf: a number that does not end")
