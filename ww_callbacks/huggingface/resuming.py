"""The state of the monitor in the checkpoint folders of the Trainer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STATE_NAME = "ww_state.json"
"""File in a checkpoint folder, beside ``trainer_state.json``."""


def checkpoint_folder(output_dir: str | os.PathLike[str], step: int) -> Path:
    """Where the Trainer keeps the checkpoint of a step.

    Example:
        >>> checkpoint_folder("out", 400).as_posix()
        'out/checkpoint-400'
    """
    return Path(output_dir, f"checkpoint-{step}")


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state into a checkpoint folder, whole or not at all.

    Args:
        folder: of the checkpoint. Nothing is written if it does not exist.
        state: plain values.

    Raises:
        OSError: it cannot be written.
        TypeError: a value is not plain.
    """
    if folder.is_dir():
        unfinished = folder / f"{STATE_NAME}.part"
        unfinished.write_text(json.dumps(state), encoding="utf-8")
        unfinished.replace(folder / STATE_NAME)


def read_state(folder: Path) -> Any:
    """The state in a checkpoint folder, as it was written; empty if there is none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON.
    """
    try:
        return json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
