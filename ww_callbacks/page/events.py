"""Follows an event file that may still grow."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ww_callbacks.outputs.tensorboard import records

_OVERHEAD = 16
"""Bytes of a record beside its data."""
_FLOAT, _DOUBLE = 1, 2
"""DT_FLOAT and DT_DOUBLE of TensorFlow's protocol buffers."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an event is.

    Attributes:
        path: of the file.
        offset: of the data of its record.
        length: of the data.
    """

    path: Path
    offset: int
    length: int

    def read(self) -> Any:
        """The Event protobuf at this place.

        Raises:
            OSError: the file cannot be read.
            ValueError: there is no event at this place any more.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return event_in(file.read(self.length))


class EventFollower:
    """Reads an event file that may still grow; a record that is not complete yet is read later.

    Args:
        path: of the file.

    Attributes:
        rest: number of bytes at the end that are no complete record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rest = 0
        self._offset = 0

    @property
    def is_void(self) -> bool:
        """Whether the file is gone or shorter than what was read of it."""
        try:
            return self.path.stat().st_size < self._offset
        except OSError:
            return True

    def poll(self) -> Iterator[tuple[Place, bytes]]:
        """The events that were added since the last call, as bytes, with their places.

        Raises:
            OSError: the file cannot be read.
        """
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for data in records(file):
                place = Place(self.path, self._offset + _OVERHEAD - 4, len(data))
                self._offset += _OVERHEAD + len(data)
                yield place, data
            self.rest = file.seek(0, os.SEEK_END) - self._offset


def tensor_bytes(value: Any) -> bytes:
    """The bytes in a value of ours; empty if there are none."""
    return value.tensor.string_val[0] if value.tensor.string_val else b""


def scalar_of(value: Any) -> float | None:
    """The number in a value of a Summary protobuf, as torch or TensorFlow write it; None if it holds none."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or value.tensor.tensor_shape.dim:
        return None
    tensor = value.tensor
    if tensor.dtype == _FLOAT:
        return _first(tensor.float_val, tensor.tensor_content, "<f")
    if tensor.dtype == _DOUBLE:
        return _first(tensor.double_val, tensor.tensor_content, "<d")
    return None


def _first(values: Any, content: bytes, form: str) -> float | None:
    if len(values):
        return float(values[0])
    if len(content) == struct.calcsize(form):
        return float(struct.unpack(form, content)[0])
    return None


def event_in(data: bytes) -> Any:
    """The Event protobuf that bytes hold.

    Raises:
        ValueError: they hold none.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    try:
        return Event.FromString(data)
    except DecodeError as error:
        raise ValueError(f"a record that holds no event: {error}") from error
