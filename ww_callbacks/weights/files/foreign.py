"""Formats that are recognised but not read, and what to do with them."""

from __future__ import annotations

import re
from pathlib import PurePath

from ww_callbacks.weights.files.remote import Location

_TFLITE = b"TFL3"
"""The identifier of TensorFlow Lite, behind the first four bytes."""
_TENSORFLOW = "which only TensorFlow reads. Load it there and save its variables with numpy.savez"
_COMPILED = "compiled for devices. Analyse the model that it was made from"
_ENDINGS = {
    ".tflite": f"a model of TensorFlow Lite, {_COMPILED}",
    ".pb": f"a graph of TensorFlow, {_TENSORFLOW}",
    ".mlmodel": f"a model of Core ML, {_COMPILED}",
    ".mlpackage": f"a model of Core ML, {_COMPILED}",
}
"""End of a name → what the file or the folder is."""
_SHARD = re.compile(r"\.data-\d{5}-of-\d{5}$")
"""End of the names of files that hold variables of TensorFlow."""


def foreign(path: Location) -> str:
    """What a file or a folder is whose format is not read, and what to do; "" if it is not known.

    Args:
        path: that exists.

    Example:
        >>> from pathlib import Path
        >>> foreign(Path("model.mlmodel"))
        'a model of Core ML, compiled for devices. Analyse the model that it was made from'
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file():
            return f"a SavedModel of TensorFlow, {_TENSORFLOW}"
        if any(_SHARD.search(each.name) for each in path.iterdir()):
            return f"a checkpoint of TensorFlow, {_TENSORFLOW}"
    elif path.is_file():
        with path.open("rb") as file:
            if file.read(8)[4:] == _TFLITE:
                return _ENDINGS[".tflite"]
    return _ENDINGS.get(PurePath(path.name).suffix.lower(), "")
