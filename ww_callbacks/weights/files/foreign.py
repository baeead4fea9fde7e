"""Formats that are recognised but not read, and what to do with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
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
_ZERO = re.compile(r"((bf|fp)16_)?zero_pp_rank_\d+_mp_rank_\d+_(model|optim)_states\.pt")
_ZERO_3 = re.compile(r"((bf|fp)16_)?zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt")
_RANK = re.compile(r"mp_rank_\d+(_\d+)*(_model_states\.pt)?")
"""A file or a folder of one rank of tensor parallelism, in checkpoints of DeepSpeed and Megatron."""
_LAYER = re.compile(r"layer_\d+-.*model_states\.pt")
_FLATTENED = (
    "a checkpoint of DeepSpeed ZeRO, whose ranks hold flattened parts of the weights. Run zero_to_fp32.py, which lies "
    "beside it, and analyse what that writes; or save whole weights in training, with save_16bit_model()"
)
_OF_RANKS = (
    "a checkpoint of which each rank wrote a part of the matrices. Save it with torch.distributed.checkpoint "
    "(Megatron: --ckpt-format torch_dist), or convert it to one file"
)
_OF_LAYERS = "a checkpoint of a DeepSpeed pipeline, with a file for each layer. Save a whole state dict instead"


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


def divided(path: Location) -> str:
    """Why a file or a folder holds no whole matrices, and what to do; "" if it may.

    Args:
        path: that exists.

    Example:
        >>> from pathlib import Path
        >>> divided(Path("zero_pp_rank_0_mp_rank_00_model_states.pt")).partition(".")[0]
        'a checkpoint of DeepSpeed ZeRO, whose ranks hold flattened parts of the weights'
    """
    if path.is_dir():
        return divided_among(each.name for each in path.iterdir()) or _of_a_rank(path)
    return _FLATTENED if _ZERO.fullmatch(path.name) else _of_a_rank(path) or _of_a_rank(path.parent)


def divided_among(names: Iterable[str]) -> str:
    """As :func:`divided`, of a folder by the names in it.

    Example:
        >>> divided_among(["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"])  # ZeRO-1 or 2
        ''
        >>> divided_among(["mp_rank_00", "mp_rank_01"]).partition(".")[0]
        'a checkpoint of which each rank wrote a part of the matrices'
    """
    known = list(names)
    if any(map(_ZERO_3.fullmatch, known)):
        return _FLATTENED
    if any(map(_LAYER.fullmatch, known)):
        return _OF_LAYERS
    return _OF_RANKS if sum(map(bool, map(_RANK.fullmatch, known))) > 1 else ""


def _of_a_rank(path: Location) -> str:
    return divided_among(each.name for each in path.parent.iterdir()) if _RANK.fullmatch(path.name) else ""
