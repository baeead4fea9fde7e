"""Files of ``torch.save``, read without torch. The description of the tensors is read first, their numbers later.

The format since torch 1.6 is a zip archive with a pickle and one member per storage; before, the pickle and the
storages followed each other (``torch/serialization.py``). Nothing is unpickled: tensors are recognised by the names of
the functions that would rebuild them, and all other objects are left out.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any, NamedTuple

from ww_callbacks.report import Skip
from ww_callbacks.weights.combined.torchao import parts_of
from ww_callbacks.weights.files import zips
from ww_callbacks.weights.files.errors import WeightsFileError, check_empty, reading
from ww_callbacks.weights.files.part import Strided, form_of
from ww_callbacks.weights.files.pickles import Made, plain_values
from ww_callbacks.weights.files.rebuild import Rebuild, SavedTensor, itemsize
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.networks import is_beside, networks_in
from ww_callbacks.weights.tensor import OBJECT, PartOf, StoredTensor

_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_PICKLE_BYTES = 512 * 2**20
_PROGRAMS = {"/constants.pkl": "a TorchScript archive", "/archive_format": "a program of torch.export"}
"""Ending of a member → what an archive with it is."""
_ADVICE = "they are not unpickled, because that could run code. Save model.state_dict() alone"


class Place(NamedTuple):
    """Where a storage lies in a file: its first byte, and its length in bytes."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Saved:
    """What a file holds.

    Attributes:
        content: plain values, with a :class:`SavedTensor` for each tensor.
        places: key of a storage → where it is, or the member of the archive that is the storage.
        objects: classes and functions of other objects.
        is_big_endian: whether the numbers have the byte order of other computers.
    """

    content: Any
    places: Mapping[str, Place | zipfile.ZipInfo]
    objects: tuple[str, ...]
    is_big_endian: bool


def tensors_of_torch(path: Location) -> list[StoredTensor]:
    """The tensors of a state dict, or of all networks of a checkpoint, without the prefixes of wrappers.

    Raises:
        WeightsFileError: not such a file, damaged, or without tensors.
    """
    with reading(path), path.open("rb") as file:
        size = path.stat().st_size
        saved = saved_in(path, file, size)
        found = networks_in(saved.content)
        if not found:
            raise WeightsFileError(path, f"holds {_what(saved)}")
        tensors, parts = _taken_apart(found)
        stored = [stored_tensor(path, file, size, saved, name, tensor) for name, tensor in tensors.items()]
    stored = _with_ties(stored, tensors)
    if parts:
        stored = [replace(each, part_of=parts.get(each.name)) for each in stored]
    return stored + _objects(saved.content)


def saved_in(path: Location, file: IO[bytes], size: int) -> Saved:
    """What a file holds, without the numbers.

    Args:
        path: that errors name.
        file: what :func:`torch.save` wrote, opened for reading.
        size: of the file in bytes.

    Raises:
        WeightsFileError: not such a file, or damaged.
    """
    is_archive = zipfile.is_zipfile(file)
    file.seek(0)
    return _of_archive(path, file, size) if is_archive else _of_legacy(path, file, size)


def _of_archive(path: Location, file: IO[bytes], size: int) -> Saved:
    with zips.checked(path, file, size) as archive:
        members = {member.filename: member for member in archive.infolist()}
        _check_members(path, members)
        description = next((name for name in members if name.endswith("data.pkl")), "data.pkl")
        root = description.removesuffix("data.pkl")
        if members[description].file_size > _MAX_PICKLE_BYTES:
            raise WeightsFileError(path, f"a description of more than {_MAX_PICKLE_BYTES} bytes")
        rebuild = Rebuild()
        content = _loaded(path, io.BytesIO(archive.read(description)), rebuild)
        keys = {storage.key for storage in rebuild.storages}
        places = {key: members[name] for key in keys if (name := f"{root}data/{key}") in members}
        order = f"{root}byteorder"
        is_big = order in members and zips.contents(path, archive, order, 16) == b"big"
    return Saved(content, places, tuple(rebuild.objects), is_big)


def _check_members(path: Location, members: Mapping[str, zipfile.ZipInfo]) -> None:
    for ending, what in _PROGRAMS.items():
        if any(name.endswith(ending) for name in members):
            raise WeightsFileError(path, f"{what}, which holds code. Load it and save its state_dict() alone")
    for name, member in members.items():
        if member.compress_type != zipfile.ZIP_STORED:
            raise WeightsFileError(path, f"member {name!r} is compressed, which torch.save never does")


def _of_legacy(path: Location, file: IO[bytes], size: int) -> Saved:
    """The format before torch 1.6: magic number, version, facts of the computer, content, keys, storages."""
    rebuild = Rebuild()
    if _loaded(path, file, rebuild) != _MAGIC:
        what = f"Python objects ({_names(rebuild.objects)})" if rebuild.objects else "Python objects"
        raise WeightsFileError(path, f"holds {what}, or is no file of torch.save; {_ADVICE}")
    _, facts, content, keys = (_loaded(path, file, rebuild) for _ in range(4))
    sizes = {storage.key: itemsize(storage.dtype) for storage in rebuild.storages}
    is_big = isinstance(facts, Mapping) and facts.get("little_endian") is False
    position, places = file.tell(), {}
    for key in keys if isinstance(keys, list) else ():
        file.seek(position)
        count = int.from_bytes(file.read(8), "big" if is_big else "little")
        place = Place(position + 8, count * sizes.get(str(key), 1))
        position = sum(place)
        if position > size:
            raise WeightsFileError(path, f"truncated: a storage ends at byte {position} of {size}")
        places[str(key)] = place
    return Saved(content, places, tuple(rebuild.objects), is_big)


def _loaded(path: Location, file: IO[bytes], rebuild: Rebuild) -> Any:
    try:
        return plain_values(file, rebuild, rebuild.storage)
    except Exception as error:  # a pickle may put anything anywhere
        check_empty(path, rebuild.empty)
        raise WeightsFileError(path, f"damaged, or no file of torch.save: {error}") from error


def empty_tensor(name: str, tensor: SavedTensor) -> StoredTensor:
    """A tensor without a reader, with the reason if its numbers cannot be read.

    Args:
        name: of the tensor.
        tensor: its description.
    """
    form, skip = form_of(tensor.dtype), tensor.skip
    if form is None:
        skip = skip or Skip("unsupported_dtype", f"torch.{tensor.dtype}")
        return StoredTensor(name, tensor.shape, tensor.dtype, skip=skip)
    return StoredTensor(name, tensor.shape, form.dtype, skip=skip, is_float8=form.decode is not None)


def stored_tensor(
    path: Location, file: IO[bytes], size: int, saved: Saved, name: str, tensor: SavedTensor, start: int = 0
) -> StoredTensor:
    """A tensor with a reader of its numbers.

    Args:
        path: from which they are read.
        file: what :func:`torch.save` wrote, opened for reading.
        size: of the file in bytes.
        saved: what it holds.
        name: of the tensor.
        tensor: its description.
        start: where the file begins in that of the path, in bytes.

    Raises:
        WeightsFileError: the numbers lie outside their storage.
    """
    stored, form, count = empty_tensor(name, tensor), form_of(tensor.dtype), math.prod(tensor.shape)
    if stored.skip is None and tensor.storage is None:
        stored = replace(stored, skip=Skip("unreadable", "the file holds no numbers"))
    if stored.skip is not None or tensor.storage is None or form is None:
        return stored
    if count * form.storage.itemsize > size:
        return replace(stored, skip=Skip("unreadable", "claims more numbers than the file holds"))
    place = saved.places.get(tensor.storage.key) if count else Place(0, 0)
    if isinstance(place, zipfile.ZipInfo):
        place = Place(zips.start_of(path, file, place), place.file_size)
    numbers = form.storage.newbyteorder(">" if saved.is_big_endian else "<")
    begin = (tensor.storage.first + tensor.offset) * numbers.itemsize if count else 0
    read = Strided(path, begin, tensor.shape, tensor.strides, numbers, form.decode)
    if place is None or begin + read.nbytes > place.length:
        raise WeightsFileError(path, f"damaged: tensor {name[:80]!r} is longer than the storage that holds it")
    return replace(stored, read=replace(read, offset=start + place.start + begin))


def _taken_apart(tensors: Mapping[str, SavedTensor]) -> tuple[dict[str, SavedTensor], dict[str, PartOf]]:
    """The tensors, those of torchao as the tensors inside them, and what these belong to."""
    apart: dict[str, SavedTensor] = {}
    parts: dict[str, PartOf] = {}
    for name, tensor in tensors.items():
        inside = list(parts_of(name, tensor, _described))
        for full, inner, part in inside:
            apart[full], parts[full] = inner, part
        if not inside:
            apart[name] = tensor
    return apart, parts


def _described(value: Any) -> tuple[str, Mapping[str, Any]] | None:
    return (value.cls, value.inside) if isinstance(value, SavedTensor) else None


def _with_ties(stored: list[StoredTensor], tensors: Mapping[str, SavedTensor]) -> list[StoredTensor]:
    """The tensors; those with the memory of an earlier one name it."""
    first: dict[tuple[Any, ...], str] = {}
    result = []
    for each in stored:
        tensor = tensors[each.name]
        axes = sorted(pair for pair in zip(tensor.strides, tensor.shape, strict=False) if pair[1] != 1)
        place = (tensor.storage, tensor.offset, tensor.dtype, tuple(axes))
        is_read = each.skip is None and math.prod(each.shape) > 0
        name = first.setdefault(place, each.name) if is_read else each.name
        result.append(each if name == each.name else replace(each, same_as=name))
    return result


def _objects(content: Any) -> list[StoredTensor]:
    """Python objects in the place of parameters, and other entries that hold tensors. They are listed, not read."""
    top = content if isinstance(content, Mapping) else {}
    mappings = [top, *(value for key, value in top.items() if isinstance(value, Mapping) and not is_beside(key, value))]
    return [
        StoredTensor(str(key), (), OBJECT, skip=Skip("unsupported_tensor", f"a Python object ({value.function})"))
        for mapping in mappings
        for key, value in mapping.items()
        if isinstance(value, Made) and not is_beside(key, value) and ("." in str(key) or _holds_tensors(value))
    ]


def _holds_tensors(value: Any) -> bool:
    """Whether there are matrices inside an object."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, SavedTensor) and len(each.shape) >= 2:
            return True
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Made):
            waiting += [*each.arguments, each.state, *each.items.values(), *each.values]
        elif isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, (list, tuple)):
            waiting += each
    return False


def _what(saved: Saved) -> str:
    """What a file without weights holds."""
    if saved.objects:
        return f"Python objects ({_names(saved.objects)}); {_ADVICE}"
    if isinstance(saved.content, Mapping):
        return f"no weights but a mapping with the keys {[str(key)[:40] for key in list(saved.content)[:10]]}"
    return f"no weights but a {type(saved.content).__name__}"


def _names(objects: Iterable[str]) -> str:
    return ", ".join(name[:80] for name in list(objects)[:3])
