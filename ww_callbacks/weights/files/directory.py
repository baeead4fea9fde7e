"""Folders of weights, and indexes of weights in several files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from operator import attrgetter
from pathlib import PurePath
from typing import Any

from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.foreign import foreign
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.tensor import StoredTensor

MAX_INDEX_BYTES = 64 * 2**20
SINGLE = (".pt", ".pth", ".ckpt", ".bin", ".th", ".npz", ".gguf", ".onnx", ".keras", ".h5", ".hdf5")
"""File name extensions of single weights files, used if a folder has no safetensors."""
FLAX = ".msgpack"
"""File name extension of flax, used if a folder has no other weights: repositories have it beside those of torch."""
USUAL = ("model", "pytorch_model", "diffusion_pytorch_model", "flax_model")
"""Names of the file that is meant if there are others."""
INDEX = ".index.json"
"""End of the name of an index."""
_VARIANT = re.compile(r"\.(?!safetensors\.|bin\.|index\.|msgpack\.)[^.]+\.(?=\w)")
"""What names a variant, as in ``model.fp16.safetensors``."""
_SHARD = re.compile(r"-\d+-of-(\d+)$")

Reader = Callable[[Location], list[StoredTensor]]


def entries_of(folder: Location) -> list[Location]:
    """What a folder holds, in the order of the names."""
    return sorted(folder.iterdir(), key=attrgetter("name"))


def weights_in(folder: Location) -> list[Location]:
    """The file, index or shards that hold the weights of one model in a folder.

    The order of the search: an index of safetensors, safetensors, an index of ``.bin`` files, one other file, an
    index of flax, a file of flax.

    Raises:
        WeightsFileError: no weights file, or several that are not parts of one model.
    """
    with reading(folder):
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    for ending in (".safetensors.index.json", ".safetensors", ".bin.index.json", SINGLE, f"{FLAX}.index.json", FLAX):
        found = [name for name in names if name.lower().endswith(ending)]
        if found:
            return [folder / name for name in _one_model(folder, found)]
    known = foreign(folder)
    with reading(folder):
        inside = [f"{entry.name}/" for entry in entries_of(folder) if entry.is_dir()]
    raise WeightsFileError(folder, known or f"no weights file in this folder, which holds {(inside + names)[:10]}")


def _one_model(folder: Location, names: list[str]) -> list[str]:
    """The names that make up one model: the only name, the usual name, or all its parts."""
    matches = [_SHARD.search(PurePath(name).stem) for name in names]
    totals = {int(match[1]) if match else None for match in matches}
    usual = [name for name in names if name.split(".")[0] in USUAL]
    plain = [name for name in usual if not _VARIANT.search(name)]
    if totals == {len(names)} or (totals == {None} and len(names) == 1):
        return names
    for found in (plain, usual):
        if totals == {None} and len(found) == 1:
            return found
    problem = "several weights files, name one of them" if totals == {None} else "parts are missing or too many"
    raise WeightsFileError(folder, f"{problem}: {names[:10]}")


def tensors_of_index(path: Location, read: Reader) -> list[StoredTensor]:
    """The tensors of an index, read from the files beside it.

    Args:
        path: of the index, JSON with a ``weight_map``: tensor → file name.
        read: reads one file.

    Raises:
        WeightsFileError: not such an index, a name outside the folder, or a tensor that is not in its file.
    """
    where = _weight_map(path)
    if path.name.lower().endswith(f"{FLAX}.index.json"):
        where = {tensor.replace("/", "."): name for tensor, name in where.items()}
    tensors: dict[tuple[str, str], StoredTensor] = {}
    for name in dict.fromkeys(where.values()):
        tensors |= {(name, tensor.name): tensor for tensor in read(path.parent / name)}
    missing = [tensor for tensor, name in where.items() if (name, tensor) not in tensors]
    if missing:
        raise WeightsFileError(path, f"{len(missing)} tensors are not in their files, such as {missing[0]!r}")
    return [tensors[name, tensor] for tensor, name in where.items()]


def _weight_map(path: Location) -> dict[str, str]:
    with reading(path):
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise WeightsFileError(path, f"an index of more than {MAX_INDEX_BYTES} bytes")
        index: Any = json.loads(path.read_text(encoding="utf-8"))
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise WeightsFileError(path, "holds no weight_map from tensors to file names")
    for name in where.values():
        if PurePath(name).name != name or "\\" in name or name in ("", ".", ".."):
            raise WeightsFileError(path, f"{name!r} leads out of the folder, refused")
        if name.lower().endswith(INDEX):
            raise WeightsFileError(path, f"names another index, {name!r}")
    return where
