"""Messages between trainer and worker: JSON frames with a version, a length and a checksum.

Received data is never executed. Floats are exact: JSON keeps the shortest digits that are read back as the same number.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]

VERSION = 1
MAX_BYTES = 16 * 2**20
_HEADER = struct.Struct(">4sHII")
_MAGIC = b"wwcb"


class ProtocolError(Exception):
    """The received data is not a valid frame."""


def encode(message: Message) -> bytes:
    """Encode a message as a frame: magic, version, length, CRC-32, JSON.

    Example:
        >>> import io
        >>> decode(io.BytesIO(encode({"hello": 1})).read)
        {'hello': 1}
    """
    payload = json.dumps(message, allow_nan=True).encode()
    return _HEADER.pack(_MAGIC, VERSION, len(payload), zlib.crc32(payload)) + payload


def decode(receive: Callable[[int], bytes]) -> Message:
    """Receive and decode one message.

    Args:
        receive: returns the given number of bytes, or raises EOFError if the other side has closed.

    Raises:
        ProtocolError: the magic, version, length or checksum is wrong, or the payload is not a JSON object.
        EOFError: raised by ``receive``.
    """
    magic, version, length, checksum = _HEADER.unpack(receive(_HEADER.size))
    if magic != _MAGIC:
        raise ProtocolError(f"not a frame: it begins with {magic!r}")
    if version != VERSION:
        raise ProtocolError(f"protocol version {version}, expected {VERSION}")
    if length > MAX_BYTES:
        raise ProtocolError(f"a frame of {length} bytes, at most {MAX_BYTES} are allowed")
    payload = receive(length)
    if zlib.crc32(payload) != checksum:
        raise ProtocolError("wrong checksum")
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"expected a JSON object, got {type(message).__name__}")
    return message


def recv_exact(fd: int, count: int, wait: Callable[[], None] = lambda: None) -> bytes:
    """Read exactly ``count`` bytes from a pipe.

    Args:
        fd: descriptor of the reading end.
        count: number of bytes.
        wait: called before each read, to wait for data with a timeout.

    Raises:
        EOFError: the other side closed the pipe first.
    """
    data = bytearray()
    while len(data) < count:
        wait()
        part = os.read(fd, count - len(data))
        if not part:
            raise EOFError("the other side closed the pipe")
        data += part
    return bytes(data)


def send_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` to a pipe or a file."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
