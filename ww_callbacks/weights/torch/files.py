"""Files of ``torch.save``: state dicts, alone or in a checkpoint. Only tensors and plain values are unpickled."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ww_callbacks.report import Skip
from ww_callbacks.weights.files import zips
from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.remote import Location, RemotePath
from ww_callbacks.weights.tensor import Stored, StoredTensor
from ww_callbacks.weights.torch import plain_name
from ww_callbacks.weights.torch.ranges import Strided, begin_in_memory, without_numbers
from ww_callbacks.weights.torch.tensors import is_float8, place_of, stored_array, stored_dtype

_USUAL = frozenset({"state_dict", "model_state_dict", "model", "module", "net", "weights", "params"})
"""Keys of the weights in checkpoints; the names of its layers do not begin with it if there is no other network."""
_BESIDE = ("optim", "lr_sched", "scheduler", "loops", "callbacks", "rng", "hyper_parameters", "hparams")
"""Prefixes of entries of a checkpoint that are not weights."""
_DEPTH = 4
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
    if isinstance(path, RemotePath):
        with reading(path), without_numbers(path) as file:
            tensors = _tensors(path, Path(file.name), zipped)
            begin = begin_in_memory(path, file, _storages(tensors))
        _check_places(path, tensors, begin)
        return _stored(tensors, path.stat().st_size, partial(_strided, path, begin))
    tensors = _tensors(path, path, zipped)
    if zipped:
        _check_places(path, tensors)
    return _stored(tensors, path.stat().st_size, _mapped)


def _mapped(tensor: torch.Tensor) -> Callable[[], Stored]:
    return partial(stored_array, tensor)


def _strided(path: RemotePath, begin: int, tensor: torch.Tensor) -> Callable[[], Stored]:
    """A reader of the numbers at a URL; ``begin`` is where the file without numbers begins in memory."""
    return Strided(path, tensor.data_ptr() - begin, tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _tensors(path: Location, file: Path, zipped: bool) -> dict[str, torch.Tensor]:
    with reading(path):
        content = _loaded(path, file, zipped)
        tensors = networks_in(content)
    if not tensors:
        raise WeightsFileError(path, f"holds no weights but {_what(content)}")
    return tensors


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


def _storages(tensors: Mapping[str, torch.Tensor]) -> list[torch.UntypedStorage]:
    plain = (tensor for tensor in tensors.values() if _is_plain(tensor) and not tensor.is_meta)
    return [storage for storage in (tensor.untyped_storage() for tensor in plain) if storage.nbytes()]


def _check_places(path: Location, tensors: Mapping[str, torch.Tensor], begin: int | None = None) -> None:
    """Refuse a file whose tensors do not match the archive members: torch maps the sizes in the pickle unchecked.

    Args:
        path: of the file.
        tensors: mapped into memory.
        begin: where the file begins in memory; None if it is not known.
    """
    mapped = {storage.data_ptr(): storage.nbytes() for storage in _storages(tensors)}
    with zips.opened(path) as archive, path.open("rb") as raw:
        members = {zips.start_of(path, raw, member): member.file_size for member in archive.infolist()}
    first, size = next(iter(mapped.items()), (0, 0))
    origins = [first - offset for offset, length in members.items() if length == size] if begin is None else [begin]
    if mapped and not any(all(members.get(at - origin) == n for at, n in mapped.items()) for origin in origins):
        raise WeightsFileError(path, "damaged: its tensors are longer than the members that hold them")


def networks_in(content: Any) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, or of all networks of a checkpoint; names of several begin with their keys.

    Args:
        content: what was saved.

    Example:
        >>> weight = torch.ones(2, 2)
        >>> list(networks_in({"model": {"fc.weight": weight}, "optimizer": {"state": {}}}))
        ['fc.weight']
        >>> list(networks_in({"model": {"fc.weight": weight}, "critic": {"fc.weight": weight}}))
        ['model.fc.weight', 'critic.fc.weight']
    """
    if not isinstance(content, Mapping):
        return _without_prefix(dict(_flat(content)))
    inside = {key: value for key, value in content.items() if not (isinstance(key, str) and key.startswith(_BESIDE))}
    networks = {key: networks_in(value) for key, value in inside.items() if _is_network(value)}
    if not networks.keys() & _USUAL and any(_holds_tensors(inside[key]) for key in inside.keys() - networks.keys()):
        networks = {}  # modules as nested mappings
    if len(networks) == 1 and set(networks) <= _USUAL:
        return next(iter(networks.values()))
    if networks and all(isinstance(key, str) for key in networks):
        return {f"{key}.{name}": tensor for key, network in networks.items() for name, tensor in network.items()}
    return _without_prefix(dict(_flat(inside)))


def _is_network(value: Any) -> bool:
    """Whether an entry of a checkpoint is a state dict with matrices, or holds one under a usual key."""
    if not isinstance(value, Mapping):
        return False
    matrices = (each for each in value.values() if isinstance(each, torch.Tensor) and each.ndim >= 2)
    return any(True for _ in matrices) or any(_is_network(value.get(key)) for key in _USUAL)


def _holds_tensors(value: Any) -> bool:
    return any(True for _ in _flat(value))


def _flat(value: Any, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors in nested mappings, each mapping once, without the numbered entries of optimizers."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        yield prefix or "tensor", value
    elif isinstance(value, Mapping) and id(value) not in seen and prefix.count(".") < _DEPTH:
        seen.add(id(value))
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _flat(inner, f"{prefix}.{key}" if prefix else key, seen)


def _what(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with the keys {[str(key)[:40] for key in list(content)[:10]]}"
    return f"a {type(content).__name__}"


def _without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove the parts that wrappers add, and the prefix ``module.`` if all names have it."""
    plain = {plain_name(name): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):
        return tensors
    while plain and all(name.startswith("module.") for name in plain):
        plain = {name.removeprefix("module."): tensor for name, tensor in plain.items()}
    return plain


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
    if tensor.is_neg():
        return Skip("unsupported_tensor", "a view that negates its numbers")
    if tensor.is_meta:
        return Skip("unreadable", "on the meta device, the file holds no numbers")
    if stored_dtype(tensor.dtype) is None:
        return Skip("unsupported_dtype", str(tensor.dtype))
    if tensor.numel() * tensor.element_size() > size:
        return Skip("unreadable", "claims more numbers than the file holds")
    return None
