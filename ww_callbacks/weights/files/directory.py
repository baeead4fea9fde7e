"""Folders of weights, and indexes of weights in several files."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import accumulate
from operator import attrgetter
from pathlib import PurePath
from typing import Any, NamedTuple

from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.foreign import foreign
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.tensor import StoredTensor

MAX_INDEX_BYTES = 64 * 2**20
SINGLE = (".pt", ".pth", ".ckpt", ".bin", ".th", ".npz", ".gguf", ".onnx", ".keras", ".h5", ".hdf5")
"""File name extensions of single weights files."""
FLAX = ".msgpack"
"""File name extension of flax, whose files repositories have beside those of torch."""
USUAL = ("model", "pytorch_model", "diffusion_pytorch_model", "flax_model")
"""Names of the file that is meant if there are others. Of several, they are the same network in several formats."""
INDEX = ".index.json"
"""End of the name of an index."""
ENDINGS = (".safetensors", *SINGLE, FLAX)
"""File name extensions of weights."""
_ENDINGS = (f".safetensors{INDEX}", ".safetensors", f".bin{INDEX}", *SINGLE, f"{FLAX}{INDEX}", FLAX)
"""Ends of the names of weights. Of a network in several formats, the first of them is read."""
_PART = re.compile(r"-\d+-of-(\d+)")
_BESIDE = re.compile(
    r"(optimizer|optim|(lr_)?scheduler|sampler|dataloader|(grad_)?scaler|rng_states?|random_states?|training_args)"
    r"([_=-]?(states?|step|epoch|iter|rank|\d+))*"
    r"|.+[_-](optimizer|optim|optim_states?)([_=-]?(step|epoch|iter|\d+))*",
    re.IGNORECASE,
)
"""Files that trainers save beside the weights; they are left out, as are their entries in a checkpoint."""

Reader = Callable[[Location], list[StoredTensor]]


class Network(NamedTuple):
    """Files of a folder that hold one network.

    Attributes:
        stem: of the names, without the numbers of parts.
        format: position of the ending among those that are known.
        total: number of parts, as their names tell it; 0 for one file or an index.
        files: the file, the index or the parts.
    """

    stem: str
    format: int
    total: int
    files: tuple[str, ...]


class Chosen(NamedTuple):
    """What is read of a folder, and what is not.

    Attributes:
        networks: at least one.
        others: names of the other weights files.
    """

    networks: tuple[Network, ...]
    others: tuple[str, ...]


def is_weights(name: str) -> bool:
    """Whether a file may hold the weights of a model, by its name.

    Example:
        >>> [is_weights(name) for name in ("last.ckpt", "optimizer-step-5.pt", "rng_state_0.pth", "trainer_state.json")]
        [True, False, False, False]
        >>> is_weights("zero_pp_rank_0_mp_rank_00_optim_states.pt"), is_weights("scaler_net.pt")
        (False, True)
    """
    return name.lower().endswith(ENDINGS) and not _is_beside(name)


def entries_of(folder: Location) -> list[Location]:
    """What a folder holds, in the order of the names."""
    return sorted(folder.iterdir(), key=attrgetter("name"))


def weights_files(folder: Location) -> list[str]:
    """The names of weights files and indexes in a folder, without those that trainers save beside them."""
    with reading(folder):
        return _weights_names(entry.name for entry in folder.iterdir() if entry.is_file())


def folders_with_weights(folder: Location) -> list[str]:
    """The names of the folders in a folder that hold weights files. One that cannot be opened counts as empty."""
    with reading(folder):
        inner = [entry for entry in entries_of(folder) if entry.is_dir()]
    found = []
    for entry in inner:
        with contextlib.suppress(WeightsFileError):
            found += [entry.name] if weights_files(entry) else []
    return found


def weights_in(folder: Location) -> Chosen:
    """The networks in a folder. Of one in several formats and variants, the plain one in the first format is chosen.

    A file with a usual name, such as ``model.safetensors``, is the network of the folder, whatever is beside it.

    Raises:
        WeightsFileError: no weights file, or parts are missing.
    """
    with reading(folder):
        entries = entries_of(folder)
        files = [entry.name for entry in entries if entry.is_file()]
        inside = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    names = _weights_names(files)
    if not names:
        with reading(folder):
            known = foreign(folder)
        raise WeightsFileError(folder, known or f"no weights file in this folder, which holds {(inside + files)[:10]}")
    named = {name: _files_of_index(folder / name) for name in names if name.lower().endswith(INDEX)}
    parts = {part for each in named.values() for part in each}
    networks = tuple(_chosen(_networks([name for name in names if name not in parts])))
    read = {file for network in networks for name in network.files for file in (name, *named.get(name, ()))}
    for network in networks:
        if network.total not in (0, len(network.files)):
            found = f"{len(network.files)} of {network.total} are there, {list(network.files[:10])}"
            raise WeightsFileError(folder, f"parts are missing or too many: {found}")
    return Chosen(networks, tuple(name for name in names if name not in read))


def _weights_names(names: Iterable[str]) -> list[str]:
    found = sorted(name for name in names if name.lower().endswith(_ENDINGS))
    return [name for name in found if not _is_beside(name)] or found


def _is_beside(name: str) -> bool:
    return _BESIDE.fullmatch(name.partition(".")[0]) is not None


def _networks(names: Sequence[str]) -> list[Network]:
    """The files of each network: parts belong together.

    Example:
        >>> names = ["a-1-of-2.bin", "a-2-of-2.bin", "a.fp16.bin"]
        >>> [(network.stem, network.total, len(network.files)) for network in _networks(names)]
        [('a', 2, 2), ('a.fp16', 0, 1)]
    """
    found: dict[tuple[str, int, int], list[str]] = {}
    for name in names:
        kind = next(number for number, ending in enumerate(_ENDINGS) if name.lower().endswith(ending))
        stem = name[: -len(_ENDINGS[kind])]
        part = _PART.search(stem)
        found.setdefault((_PART.sub("", stem), kind, int(part[1]) if part else 0), []).append(name)
    return [Network(*key, tuple(files)) for key, files in found.items()]


def _chosen(networks: Sequence[Network]) -> list[Network]:
    """The networks without other formats and variants of the same ones, such as ``a.fp16`` of ``a``.

    Example:
        >>> [network.files[0] for network in _chosen(_networks(["a.bin", "a.fp16.bin", "b.bin", "b.safetensors"]))]
        ['a.bin', 'b.safetensors']
        >>> [network.files[0] for network in _chosen(_networks(["a.bin", "model.fp16.bin", "model.onnx"]))]
        ['model.onnx']
    """
    usual = [network for network in networks if network.stem.partition(".")[0] in USUAL]
    if usual:
        return _best(usual, USUAL)
    families: dict[str, list[Network]] = {}
    for network in sorted(networks, key=lambda each: each.stem.split(".")):
        stems = accumulate(network.stem.split("."), "{}.{}".format)
        families.setdefault(next((stem for stem in stems if stem in families), network.stem), []).append(network)
    return [network for stem, family in families.items() for network in _best(family, (stem,))]


def _best(networks: Sequence[Network], plain: Collection[str]) -> list[Network]:
    """The plain ones in the first format."""
    ranks = [(network.stem not in plain, network.format) for network in networks]
    return [network for network, rank in zip(networks, ranks, strict=True) if rank == min(ranks)]


def _files_of_index(path: Location) -> frozenset[str]:
    """The files that an index names; none if it is not valid, which is told if it is read."""
    try:
        return frozenset(_weight_map(path).values())
    except WeightsFileError:
        return frozenset()


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
