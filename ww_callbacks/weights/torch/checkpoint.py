"""Folders of ``torch.distributed.checkpoint``: a description of all tensors in ``.metadata``, their parts in shards."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from ww_callbacks.report import Skip
from ww_callbacks.weights.files import CHECKPOINT
from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.networks import networks_in
from ww_callbacks.weights.tensor import Stored, StoredTensor
from ww_callbacks.weights.torch.tensors import is_float8, stored_array, stored_dtype

MAX_METADATA_BYTES = 512 * 2**20

_PACKAGE = "torch.distributed.checkpoint"
_DESCRIPTIONS = {
    f"{_PACKAGE}.metadata": (
        *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
        *("MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    ),
    f"{_PACKAGE}.filesystem": ("_StorageInfo",),
    "torch": ("Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))),
    "torch.serialization": ("_get_layout",),
    "collections": ("OrderedDict",),
}
"""Module → names that describe tensors; they hold values and run nothing."""


class Ignored:
    """Takes the place of any other object in the description."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Reader(pickle.Unpickler):
    """Reads descriptions of tensors; other classes and functions are never looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _DESCRIPTIONS.get(module, ()):
            return super().find_class(module, name)
        return Ignored


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a tensor.

    Attributes:
        path: of its shard.
        start: of its bytes in the shard, a tensor as ``torch.save`` writes it.
        length: of these bytes.
        offsets: where it begins in the tensor.
        sizes: its shape.
    """

    path: Location
    start: int
    length: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


def tensors_of_checkpoint(folder: Location) -> list[StoredTensor]:
    """The tensors of a checkpoint, with the names that they have in a state dict.

    Nothing is unpickled but descriptions of tensors. The parts are read when the tensor is.

    Args:
        folder: with ``.metadata`` and the shards.

    Raises:
        WeightsFileError: no such description, a shard that is missing, too short or outside the folder, or parts that
            do not make up their tensor.
    """
    path = folder / CHECKPOINT
    with reading(path, "not the description of a checkpoint"):
        if path.stat().st_size > MAX_METADATA_BYTES:
            raise WeightsFileError(path, f"a description of more than {MAX_METADATA_BYTES} bytes")
        with path.open("rb") as file:
            content = _Reader(file).load()
        described = {name: each for name, each in content.state_dict_metadata.items() if hasattr(each, "chunks")}
        places = {(index.fqn, tuple(index.offset or ())): place for index, place in content.storage_data.items()}
        parts = {name: _parts(folder, name, each, places) for name, each in described.items()}
        empty = {name: _empty(each) for name, each in described.items()}
        names = {id(tensor): name for name, tensor in empty.items()}
        found = networks_in(_nested(empty, content.planner_data))
    if not found:
        raise WeightsFileError(path, "describes no weights")
    return [_stored(name, tensor, parts[names[id(tensor)]]) for name, tensor in found.items()]


def _parts(folder: Location, name: str, described: Any, places: Mapping[Any, Any]) -> list[_Part]:
    """The parts of a tensor, checked against its shape and against the shards."""
    size, parts = tuple(described.size), []
    for chunk in described.chunks:
        offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
        fits = len(offsets) == len(sizes) == len(size)
        ends = [begin + length for begin, length in zip(offsets, sizes, strict=False)]
        if not fits or any(begin < 0 or end > side for begin, end, side in zip(offsets, ends, size, strict=True)):
            raise WeightsFileError(folder, f"tensor {name!r} of shape {size}: a part of {sizes} at {offsets}")
        place = places.get((name, offsets))
        if place is None:
            raise WeightsFileError(folder, f"tensor {name!r}: no shard holds the part at {offsets}")
        if getattr(place, "transform_descriptors", None):
            raise WeightsFileError(folder, f"tensor {name!r} is compressed ({place.transform_descriptors[0]!r})")
        parts.append(_Part(_shard(folder, place), place.offset, place.length, offsets, sizes))
    if sum(math.prod(part.sizes) for part in parts) != math.prod(size) or _overlap(parts):
        raise WeightsFileError(folder, f"tensor {name!r} of shape {size}: its parts overlap or leave gaps")
    return parts


def _overlap(parts: list[_Part]) -> bool:
    """Whether two parts share elements."""
    if len(parts) < 2 or not parts[0].sizes:
        return len(parts) > 1
    begins = np.array([part.offsets for part in parts])
    ends = begins + np.array([part.sizes for part in parts])
    shared = (begins[:, None] < ends[None]) & (begins[None] < ends[:, None])
    return int(shared.all(-1).sum()) > int((begins < ends).all(-1).sum())  # a part that is not empty meets itself


def _shard(folder: Location, place: Any) -> Location:
    name = str(place.relative_path)
    if PurePath(name).name != name or name in ("", ".", ".."):
        raise WeightsFileError(folder, f"{name!r} leads out of the folder, refused")
    path = folder / name
    if not path.is_file():
        raise WeightsFileError(folder, f"the shard {name!r} is missing")
    if not 0 <= place.offset <= place.offset + place.length <= path.stat().st_size:
        raise WeightsFileError(path, f"truncated: {place.offset + place.length} bytes of it are described")
    return path


def _empty(described: Any) -> torch.Tensor:
    return torch.empty(tuple(described.size), dtype=described.properties.dtype, device="meta")


def _nested(tensors: Mapping[str, torch.Tensor], paths: Any) -> dict[Any, Any]:
    """The tensors in the nested mappings that were saved, as far as that is known."""
    nested: dict[Any, Any] = {}
    for name, tensor in tensors.items():
        path = paths.get(name) if isinstance(paths, Mapping) else None
        keys = path if isinstance(path, tuple) and path else (name,)
        inner = nested
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = tensor
    return nested


def _stored(name: str, tensor: torch.Tensor, parts: list[_Part]) -> StoredTensor:
    shape, dtype = tuple(tensor.shape), stored_dtype(tensor.dtype)
    if dtype is None:
        return StoredTensor(name, shape, str(tensor.dtype), skip=Skip("unsupported_dtype", str(tensor.dtype)))
    read = partial(_read, name, tensor.dtype, shape, parts)
    return StoredTensor(name, shape, dtype, read, is_float8=is_float8(tensor.dtype))


def _read(name: str, dtype: torch.dtype, shape: tuple[int, ...], parts: list[_Part]) -> Stored:
    """Put the parts together, one in memory at a time."""
    if len(parts) == 1 and parts[0].sizes == shape:
        return _numbers(name, dtype, parts[0])
    result: Stored | None = None
    for part in parts:
        numbers = _numbers(name, dtype, part)
        result = np.empty(shape, numbers.dtype) if result is None else result
        result[tuple(slice(begin, begin + size) for begin, size in zip(part.offsets, part.sizes, strict=True))] = (
            numbers
        )
    return np.empty(shape, stored_dtype(dtype)) if result is None else result


def _numbers(name: str, dtype: torch.dtype, part: _Part) -> Stored:
    with reading(part.path, f"tensor {name!r} cannot be read"):
        with part.path.open("rb") as file:
            file.seek(part.start)
            data = file.read(part.length)
        tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(tensor, torch.Tensor) or (tuple(tensor.shape), tensor.dtype) != (part.sizes, dtype):
            raise WeightsFileError(part.path, f"holds another tensor than {name!r} where the description says")
        return stored_array(tensor)
