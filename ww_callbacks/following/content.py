"""The step of a checkpoint whose name does not state it, from what trainers save beside the weights."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from typing import Any

from ww_callbacks.weights.files.errors import WeightsFileError
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.files.saved import saved_in

TRAINER_STATE = "trainer_state.json"
"""The file in a checkpoint of the Trainer of transformers that states its step."""
MAX_BYTES = 256 * 2**20
_KEYS = ("global_step", "step", "iteration", "iter_num", "iter", "epoch")
"""Names of the step in checkpoints of Lightning and of common training loops, the most telling first."""


def step_inside(path: Location) -> int | None:
    """The step that a checkpoint states: of transformers' ``Trainer``, or in a mapping that ``torch.save`` wrote.

    Args:
        path: of a file or a folder.

    Returns:
        None if it states none, or cannot be read (yet).
    """
    try:
        if path.is_dir():
            return _of_trainer(path / TRAINER_STATE)
        if _is_saved_by_torch(path):
            with path.open("rb") as file:
                return _stated(saved_in(path, file, path.stat().st_size).content)
    except (OSError, ValueError, RecursionError, WeightsFileError):
        pass
    return None


def _of_trainer(path: Location) -> int | None:
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    return _stated(json.loads(path.read_text(encoding="utf-8")))


def _is_saved_by_torch(path: Location) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(file)


def _stated(content: Any) -> int | None:
    for key in _KEYS if isinstance(content, Mapping) else ():
        value = content.get(key)
        if type(value) is int and value >= 0:
            return value
    return None
