"""Reads the file that W&B writes offline: records of LevelDB's log format after a header of 7 bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768


def records(path: Path) -> Iterator[Any]:
    """Its records, as messages of W&B."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:  # the rest of a block that is too short for a header
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack("<4xHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


def rows(path: Path) -> list[dict[str, Any]]:
    """What was logged."""
    found = (record.history.item for record in records(path) if record.HasField("history"))
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items} for items in found]


def alerts(path: Path) -> list[tuple[str, str, str]]:
    """Title, text and level of each alert."""
    found = (record.alert for record in records(path) if record.HasField("alert"))
    return [(alert.title, alert.text, alert.level) for alert in found]
