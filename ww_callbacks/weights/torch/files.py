"""Files of ``torch.save``: state dicts, alone or in a checkpoint. Only tensors and plain values are unpickled."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ww_callbacks.report import Skip
from ww_callbacks.weights.files import zips
from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.remote import Location, RemotePath
from ww_callbacks.weights.networks import networks_in
from ww_callbacks.weights.tensor import Stored, StoredTensor
from ww_callbacks.weights.torch.ranges import Strided, without_numbers
from ww_callbacks.weights.torch.tensors import is_float8, place_of, stored_array, stored_dtype

_CLASS = re.compile(r"GLOBAL ([\w.]+)")
_PROGRAMS = {"/constants.pkl": "a TorchScript archive", "/archive_format": "a program of torch.export"}
"""Ending of a member → what an archive with it is."""


def tensors_of_torch(path: Location) -> list[StoredTensor]:
    """The tensors of a state dict, with names without the prefixes of wrappers.

    Files in the format of torch 1.6 and later are memory-mapped, or read in ranges if they are at a URL; older files
    are read completely.

    Raises:
        WeightsFileError: not such a file, damaged, without tensors, or with objects other than tensors and plain
            values (nothing is executed).
    """
    zipped = _check_archive(path)
    if isinstance(path, RemotePath) and not zipped:
        cause = "the format of torch before 1.6 is not read at a URL; download the file and pass its path"
        raise WeightsFileError(path, cause)
    with reading(path), without_numbers(path) if isinstance(path, RemotePath) else nullcontext(path) as file:
        content = _loaded(path, file, zipped)
        tensors = networks_in(content)
    if not tensors:
        raise WeightsFileError(path, f"holds no weights but {_what(content)}")
    start = _start(path, tensors) if zipped else 0
    read = partial(_strided, path, start) if isinstance(path, RemotePath) else _mapped
    return _stored(tensors, path.stat().st_size, read)


def _mapped(tensor: torch.Tensor) -> Callable[[], Stored]:
    return partial(stored_array, tensor)


def _strided(path: RemotePath, start: int, tensor: torch.Tensor) -> Callable[[], Stored]:
    """A reader of the numbers at a URL; ``start`` is where the file without numbers begins in memory."""
    return Strided(path, tensor.data_ptr() - start, tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _loaded(path: Location, file: Path, zipped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(str(file), map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = _CLASS.search(str(error))
        what = f"Python objects ({found[1]})" if found else "Python objects, or is no file of torch.save"
        advice = "they are not unpickled, because that could run code. Save model.state_dict() alone"
        raise WeightsFileError(path, f"holds {what}; {advice}") from error


def _check_archive(path: Location) -> bool:
    """Whether the file is a zip archive. Checks its directory, which torch trusts."""
    if not zips.is_zip(path):
        return False
    with zips.opened(path) as archive:
        names = [member.filename for member in archive.infolist()]
        for ending, what in _PROGRAMS.items():
            if any(name.endswith(ending) for name in names):
                raise WeightsFileError(path, f"{what}, which holds code. Load it and save its state_dict() alone")
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise WeightsFileError(path, f"member {member.filename!r} is compressed, which torch.save never does")
    return True


def _start(path: Location, tensors: Mapping[str, torch.Tensor]) -> int:
    """Where the mapped file begins in memory.

    Raises:
        WeightsFileError: the tensors do not match the archive members: torch maps the sizes in the pickle unchecked.
    """
    plain = (tensor for tensor in tensors.values() if _is_plain(tensor) and not tensor.is_meta)
    mapped = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in plain)}
    mapped = {start: size for start, size in mapped.items() if size}
    with zips.opened(path) as archive, path.open("rb") as raw:
        members = {zips.start_of(path, raw, member): member.file_size for member in archive.infolist()}
    first, size = next(iter(mapped.items()), (0, 0))
    origins = (first - offset for offset, length in members.items() if length == size)
    for origin in origins if mapped else (0,):
        if all(members.get(at - origin) == size for at, size in mapped.items()):
            return origin
    raise WeightsFileError(path, "damaged: its tensors are longer than the members that hold them")


def _what(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with the keys {[str(key)[:40] for key in list(content)[:10]]}"
    return f"a {type(content).__name__}"


def _stored(
    tensors: dict[str, torch.Tensor], size: int, reader: Callable[[torch.Tensor], Callable[[], Stored]]
) -> list[StoredTensor]:
    first: dict[tuple[Any, ...], str] = {}
    result = []
    for name, tensor in tensors.items():
        shape, dtype = tuple(tensor.shape), stored_dtype(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")
        skip = _unreadable(tensor, size)
        same_as = "" if skip or not tensor.numel() else first.setdefault(place_of(tensor), name)
        read = None if skip else reader(tensor)
        same_as = "" if same_as == name else same_as
        result.append(StoredTensor(name, shape, dtype, read, skip, same_as, is_float8(tensor.dtype)))
    return result


def _is_plain(tensor: torch.Tensor) -> bool:
    is_known = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    return is_known and tensor.layout == torch.strided and not tensor.is_quantized


def _unreadable(tensor: torch.Tensor, size: int) -> Skip | None:
    if not _is_plain(tensor):
        what = f"class {type(tensor).__name__}, layout {tensor.layout}, dtype {tensor.dtype}"
        return Skip("unsupported_tensor", what)
    if tensor.is_meta:
        return Skip("unreadable", "on the meta device, the file holds no numbers")
    if stored_dtype(tensor.dtype) is None:
        return Skip("unsupported_dtype", str(tensor.dtype))
    if tensor.numel() * tensor.element_size() > size:
        return Skip("unreadable", "claims more numbers than the file holds")
    return None
