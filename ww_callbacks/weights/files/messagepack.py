"""MessagePack value by value, by their place in a file.

The package ``msgpack`` holds every value in memory to pass it, arrays of gigabytes too. The encoding:
https://github.com/msgpack/msgpack/blob/master/spec.md.
"""

from __future__ import annotations

from typing import IO, Literal, NamedTuple

Kind = Literal["map", "array", "text", "bytes", "extension", "integer", "other"]

_MAX_HEAD = 9
"""The first byte and at most eight more."""
_COUNTED: dict[int, tuple[Kind, int]] = {
    **{0xC4 + i: ("bytes", 2**i) for i in range(3)},
    **{0xC7 + i: ("extension", 2**i) for i in range(3)},
    **{0xD9 + i: ("text", 2**i) for i in range(3)},
    **{0xDC + i: ("array", 2 << i) for i in range(2)},
    **{0xDE + i: ("map", 2 << i) for i in range(2)},
}
"""First byte → kind, and bytes of the length or count that follows."""
_SHORT: tuple[tuple[range, Kind], ...] = (
    (range(0x80, 0x90), "map"),
    (range(0x90, 0xA0), "array"),
    (range(0xA0, 0xC0), "text"),
)
"""First bytes that contain the length or count."""
_OTHERS = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
"""Nothing, false, true and floating-point numbers: first byte → bytes that follow."""


class Value(NamedTuple):
    """A value.

    Attributes:
        kind: what it is.
        number: an integer, the length of a map or an array, or the type of an extension.
        begin: where its content begins.
        end: where its content ends; for maps and arrays where their first entry begins.
    """

    kind: Kind
    number: int
    begin: int
    end: int


def value_at(file: IO[bytes], position: int, end: int) -> Value:
    r"""The value that begins at a position.

    Args:
        file: opened for reading; its position changes.
        position: of the first byte.
        end: the byte behind what may be read.

    Raises:
        ValueError: not MessagePack, or the value exceeds the end.

    Example:
        >>> import io
        >>> tuple(value_at(io.BytesIO(b"\xa2hi\x07"), 0, 4))
        ('text', 0, 1, 3)
        >>> tuple(value_at(io.BytesIO(b"\xa2hi\x07"), 3, 4))
        ('integer', 7, 4, 4)
    """
    file.seek(position)
    value = _value(file.read(min(_MAX_HEAD, end - position)), position)
    if value.end > end:
        raise ValueError(f"truncated: a value at byte {position} ends at byte {value.end}, behind byte {end}")
    return value


def content(file: IO[bytes], value: Value) -> bytes:
    """The bytes of a text or of bytes."""
    file.seek(value.begin)
    return file.read(value.end - value.begin)


def _value(head: bytes, position: int) -> Value:
    first, begin = head[0] if head else 0, position + 1
    if not head:
        raise ValueError(f"truncated: a value is missing at byte {position}")
    if first < 0x80 or first >= 0xE0:
        return Value("integer", int.from_bytes(head[:1], "big", signed=True), begin, begin)
    for firsts, kind in _SHORT:
        if first in firsts:
            return _counted(kind, first - firsts.start, begin)
    if first in _COUNTED:
        kind, size = _COUNTED[first]
        count = _number(head, size, position)
        if kind != "extension":
            return _counted(kind, count, begin + size)
        return Value(kind, _number(head[size:], 1, position), begin + size + 1, begin + size + 1 + count)
    if 0xD4 <= first <= 0xD8:
        return Value("extension", _number(head, 1, position), begin + 1, begin + 1 + (1 << first - 0xD4))
    if 0xCC <= first <= 0xD3:
        size = 1 << (first - 0xCC) % 4
        return Value("integer", _number(head, size, position, signed=first >= 0xD0), begin, begin + size)
    if first in _OTHERS:
        return Value("other", 0, begin, begin + _OTHERS[first])
    raise ValueError(f"not MessagePack: byte {first:#x} at {position}")


def _counted(kind: Kind, count: int, begin: int) -> Value:
    return Value(kind, count, begin, begin) if kind in ("map", "array") else Value(kind, 0, begin, begin + count)


def _number(head: bytes, size: int, position: int, *, signed: bool = False) -> int:
    """The big-endian number behind the first byte."""
    if len(head) < 1 + size:
        raise ValueError(f"truncated: a value at byte {position} is cut off")
    return int.from_bytes(head[1 : 1 + size], "big", signed=signed)
