"""Which folders hold the arrays of a checkpoint of Orbax. Needs no package.

A checkpoint is a tree, or a folder per item, each a tree. A ``CheckpointManager`` has a folder per step.
"""

from __future__ import annotations

import re

from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.remote import Location

TREE = "_METADATA"
"""The file that describes a tree."""
DATABASE = "manifest.ocdbt"
"""The file beside it if all arrays are in one database."""
_MARKERS = (TREE, DATABASE, "_CHECKPOINT_METADATA")
_STEP = re.compile(r"(.*[._-])?\d+")
_UNFINISHED = ".orbax-checkpoint-tmp"


def is_checkpoint(folder: Location) -> bool:
    """Whether a folder holds a checkpoint, or one in each of its folders for steps."""
    with reading(folder):
        return _has_marker(folder) or bool(_items(folder) or _steps(folder))


def trees_in(folder: Location) -> dict[str, Location]:
    """The trees of a checkpoint: item → its folder; that of a checkpoint without items has the name "".

    Raises:
        WeightsFileError: several steps, an unfinished checkpoint, or one that is not described.
    """
    if _UNFINISHED in folder.name:
        raise WeightsFileError(folder, "an unfinished checkpoint: saving it was interrupted")
    with reading(folder):
        if (folder / TREE).is_file():
            return {"": folder}
        items, steps = _items(folder), _steps(folder)
    if items:
        return {item.name: item for item in items}
    if len(steps) > 1:
        names = [step.name for step in steps]
        raise WeightsFileError(folder, f"holds several steps, give the folder of one: {names[:10]}")
    if not steps:
        raise WeightsFileError(folder, f"its tree is not described: {TREE} is missing")
    return trees_in(steps[0])


def _has_marker(folder: Location) -> bool:
    return any((folder / marker).is_file() for marker in _MARKERS)


def _items(folder: Location) -> list[Location]:
    return [inner for inner in _folders(folder) if (inner / TREE).is_file()]


def _steps(folder: Location) -> list[Location]:
    """The folders of steps, which are numbered, with or without a prefix."""
    return [
        inner for inner in _folders(folder) if _STEP.fullmatch(inner.name) and (_has_marker(inner) or _items(inner))
    ]


def _folders(folder: Location) -> list[Location]:
    inner = (each for each in folder.iterdir() if each.is_dir() and _UNFINISHED not in each.name)
    return sorted(inner, key=lambda each: (len(each.name), each.name))
