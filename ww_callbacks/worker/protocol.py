"""What trainer and worker say to each other: frames of JSON with a version, a length and a checksum.

Nothing that arrives is executed. Floats survive to the last bit (JSON keeps the shortest digits that read back equal).
"""

from __future__ import annotations

import json
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
    """What arrived is not a frame of this protocol."""


def encode(message: Message) -> bytes:
    """One message as a frame: magic, version, length, CRC-32, JSON.

    Example:
        >>> import io
        >>> decode(io.BytesIO(encode({"hello": 1})).read)
        {'hello': 1}
    """
    payload = json.dumps(message, allow_nan=True).encode()
    return _HEADER.pack(_MAGIC, VERSION, len(payload), zlib.crc32(payload)) + payload


def decode(read_exactly: Callable[[int], bytes]) -> Message:
    """Read one message.

    Args:
        read_exactly: gives that many bytes; raises EOFError where the other side has gone.

    Raises:
        ProtocolError: wrong magic, version, length or checksum, or no JSON object.
        EOFError: as raised by ``read_exactly``.
    """
    magic, version, length, checksum = _HEADER.unpack(read_exactly(_HEADER.size))
    if magic != _MAGIC:
        raise ProtocolError(f"not a frame: it begins with {magic!r}")
    if version != VERSION:
        raise ProtocolError(f"protocol version {version}, expected {VERSION}")
    if length > MAX_BYTES:
        raise ProtocolError(f"a frame of {length} bytes, at most {MAX_BYTES} are allowed")
    payload = read_exactly(length)
    if zlib.crc32(payload) != checksum:
        raise ProtocolError("wrong checksum")
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"expected a JSON object, got {type(message).__name__}")
    return message
