"""Folders of ``torch.distributed.checkpoint``: a description of all tensors in ``.metadata``, their parts in shards."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import IO, Any

import numpy as np

from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.part import Strided
from ww_callbacks.weights.files.pickles import Made, plain_values
from ww_callbacks.weights.files.rebuild import SavedTensor, dtype_named, sizes_of
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.files.saved import empty_tensor, saved_in, stored_tensor
from ww_callbacks.weights.networks import networks_in
from ww_callbacks.weights.tensor import Stored, StoredTensor

METADATA = ".metadata"
"""The file in a folder that describes its tensors."""
MAX_METADATA_BYTES = 512 * 2**20


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

    The description is a pickle, whose objects are not made. The parts are read when the tensor is.

    Args:
        folder: with ``.metadata`` and the shards.

    Raises:
        WeightsFileError: no such description, a shard that is missing, too short or outside the folder, or parts that
            do not make up their tensor.
    """
    path = folder / METADATA
    with reading(path, "not the description of a checkpoint"):
        if path.stat().st_size > MAX_METADATA_BYTES:
            raise WeightsFileError(path, f"a description of more than {MAX_METADATA_BYTES} bytes")
        with path.open("rb") as file:
            content = _state(plain_values(io.BytesIO(file.read())))
        described = {_text(name): _state(each) for name, each in content["state_dict_metadata"].items()}
        tensors = {name: _tensor(each) for name, each in described.items() if "chunks" in each}
        places = {_index(index): _state(place) for index, place in content["storage_data"].items()}
        parts = {name: _parts(folder, name, tensor, described[name], places) for name, tensor in tensors.items()}
        names = {id(tensor): name for name, tensor in tensors.items()}
        found = networks_in(_nested(tensors, content.get("planner_data")))
    if not found:
        raise WeightsFileError(path, "describes no weights")
    return [_stored(name, tensor, parts[names[id(tensor)]]) for name, tensor in found.items()]


def _state(made: Any) -> Mapping[Any, Any]:
    """The attributes of an object of the description; none of what is no object."""
    state = made.state if isinstance(made, Made) else None
    return state if isinstance(state, Mapping) else {}


def _text(value: Any) -> str:
    """A text. What else a pickle may put in its place could take forever to print.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"a name of type {type(value).__name__}")
    return value


def _tensor(described: Mapping[Any, Any]) -> SavedTensor:
    properties = described["properties"]
    dtype = properties.state[0] if isinstance(properties.state, tuple) else _state(properties)["dtype"]
    return SavedTensor(sizes_of(described["size"]), dtype_named(dtype))


def _index(index: Any) -> tuple[Any, tuple[int, ...]]:
    """The name of a tensor, and where a part of it begins."""
    state = _state(index)
    return _text(state["fqn"]), sizes_of(state.get("offset") or ())


def _parts(
    folder: Location, name: str, tensor: SavedTensor, described: Mapping[Any, Any], places: Mapping[Any, Any]
) -> list[_Part]:
    """The parts of a tensor, checked against its shape and against the shards."""
    size, parts = tensor.shape, []
    for chunk in map(_state, described["chunks"]):
        offsets, sizes = sizes_of(chunk["offsets"]), sizes_of(chunk["sizes"])
        fits = len(offsets) == len(sizes) == len(size)
        ends = [begin + length for begin, length in zip(offsets, sizes, strict=False)]
        if not fits or any(end > side for end, side in zip(ends, size, strict=True)):
            raise WeightsFileError(folder, f"tensor {name!r} of shape {size}: a part of {sizes} at {offsets}")
        place = places.get((name, offsets))
        if place is None:
            raise WeightsFileError(folder, f"tensor {name!r}: no shard holds the part at {offsets}")
        if place.get("transform_descriptors"):
            raise WeightsFileError(folder, f"tensor {name!r} is compressed, which is not read")
        shard = _shard(folder, place)
        parts.append(_Part(shard, place["offset"], place["length"], offsets, sizes))
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


def _shard(folder: Location, place: Mapping[Any, Any]) -> Location:
    name, (offset, length) = _text(place["relative_path"]), sizes_of((place["offset"], place["length"]))
    if PurePath(name).name != name or name in ("", ".", ".."):
        raise WeightsFileError(folder, f"{name!r} leads out of the folder, refused")
    path = folder / name
    if not path.is_file():
        raise WeightsFileError(folder, f"the shard {name!r} is missing")
    if offset + length > path.stat().st_size:
        raise WeightsFileError(path, f"truncated: {offset + length} bytes of it are described")
    return path


def _nested(tensors: Mapping[str, SavedTensor], paths: Any) -> dict[Any, Any]:
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


@dataclass(frozen=True, slots=True)
class _Parted:
    """Reads a tensor, or a cuboid of it, from the parts in which it is stored, one in memory at a time.

    Attributes:
        name: of the tensor.
        tensor: its description.
        dtype: of the numbers that are read.
        parts: that share numbers with the cuboid.
        offsets: where the cuboid begins in the tensor.
        sizes: shape of the cuboid.
    """

    name: str
    tensor: SavedTensor
    dtype: str
    parts: tuple[_Part, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    def __call__(self) -> Stored:
        """The numbers."""
        if len(self.parts) == 1:
            return self._shared(self.parts[0])
        result = np.empty(self.sizes, "uint16" if self.dtype == "bfloat16" else self.dtype)
        for part in self.parts:
            spans = zip(*self._span(part), self.offsets, strict=True)
            result[tuple(slice(begin - start, end - start) for begin, end, start in spans)] = self._shared(part)
        return result

    def narrow(self, axis: int, start: int, size: int) -> _Parted:
        """A reader of ``size`` entries along an axis, which reads only these."""
        begin = self.offsets[axis] + start
        offsets = (*self.offsets[:axis], begin, *self.offsets[axis + 1 :])
        sizes = (*self.sizes[:axis], size, *self.sizes[axis + 1 :])
        ends = ((part, part.offsets[axis], part.offsets[axis] + part.sizes[axis]) for part in self.parts)
        parts = tuple(part for part, first, last in ends if first < begin + size and begin < last)
        return replace(self, offsets=offsets, sizes=sizes, parts=parts)

    def _span(self, part: _Part) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Begin and end, along each axis of the tensor, of what a part shares with the cuboid."""
        begins = tuple(map(max, self.offsets, part.offsets))
        ends = (begin + size for begin, size in zip(self.offsets, self.sizes, strict=True))
        lasts = (begin + size for begin, size in zip(part.offsets, part.sizes, strict=True))
        return begins, tuple(map(min, ends, lasts))

    def _shared(self, part: _Part) -> Stored:
        read = _reader(self.name, self.tensor, part)
        for axis, (begin, end) in enumerate(zip(*self._span(part), strict=True)):
            if end - begin < part.sizes[axis]:
                read = read.narrow(axis, begin - part.offsets[axis], end - begin)
        return read()


def _stored(name: str, tensor: SavedTensor, parts: list[_Part]) -> StoredTensor:
    stored = empty_tensor(name, tensor)
    if stored.skip:
        return stored
    filled = tuple(part for part in parts if math.prod(part.sizes))
    read = _Parted(name, tensor, stored.dtype, filled, (0,) * len(tensor.shape), tensor.shape)
    return replace(stored, read=read)


def _reader(name: str, tensor: SavedTensor, part: _Part) -> Strided:
    """The reader of a part, whose own description is compared with that of the folder."""
    with reading(part.path, f"tensor {name!r} cannot be read"), part.path.open("rb") as file:
        window = io.BufferedReader(_Window(file, part.start, part.length))
        saved = saved_in(part.path, window, part.length)
        found = saved.content
        if not isinstance(found, SavedTensor) or (found.shape, found.dtype) != (part.sizes, tensor.dtype):
            raise WeightsFileError(part.path, f"holds another tensor than {name!r} where the description says")
        stored = stored_tensor(part.path, window, part.length, saved, name, found, start=part.start)
        if not isinstance(stored.read, Strided):
            raise WeightsFileError(part.path, f"tensor {name!r} cannot be read: {stored.skip}")
    return stored.read


class _Window(io.RawIOBase):
    """A part of a file as a file.

    Args:
        file: opened for reading.
        start: of the part, in bytes.
        length: of the part.
    """

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file, self._start, self._length, self._position = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(origin + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(min(len(buffer), self._length - self._position), 0)
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
