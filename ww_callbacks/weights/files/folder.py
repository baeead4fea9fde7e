"""Folders with several networks, and what is not read of a folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import PurePath

from ww_callbacks.report import Skip
from ww_callbacks.weights.files.directory import Network, folders_with_weights, weights_files
from ww_callbacks.weights.files.errors import WeightsFileError
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.layer import Layer

Read = Callable[[Sequence[Location]], Sequence[Layer]]
MAX_NAMES = 10
"""Most names that an error lists."""


def layers_of_networks(folder: Location, networks: Sequence[Network], read: Read) -> list[Layer]:
    """The layers of all networks in a folder. If names collide, they begin with the name of the file.

    Files that cannot be read are listed as skipped.

    Args:
        folder: that holds them.
        networks: at least one.
        read: reads the files of a network.

    Raises:
        WeightsFileError: no network can be read, or several files hold the same network, such as checkpoints of a run.
    """
    if len(networks) == 1:
        return list(read(_paths(folder, networks[0])))
    found: dict[Network, Sequence[Layer]] = {}
    failed: dict[str, WeightsFileError] = {}
    for network in networks:
        try:
            found[network] = read(_paths(folder, network))
        except WeightsFileError as error:
            failed[network.files[0]] = error
    if not found:
        raise next(iter(failed.values()))
    _refuse_copies(folder, found)
    unread = [Layer.skipped(name, "file", Skip("unreadable", error.cause)) for name, error in failed.items()]
    names = [layer.name for layers in found.values() for layer in layers]
    if len(found) == 1 or len(set(names)) == len(names):
        return [layer for layers in found.values() for layer in layers] + unread
    prefixes = _prefixes(list(found))
    layers = [layer.named(f"{prefixes[network]}/{layer.name}") for network, each in found.items() for layer in each]
    return layers + unread


def left_out(folder: Location, files: Sequence[str], used: Collection[str]) -> list[Layer]:
    """What is not read of a folder, listed: weights files, and folders that hold some.

    Args:
        folder: that is read.
        files: names of the weights files that are not read.
        used: names of the files and folders that are read.
    """
    folders = [f"{name}/" for name in folders_with_weights(folder) if name not in used]
    names = sorted(used)
    read = ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
    skip = Skip("left_out", f"the folder is read as {read}; give its own path to analyse it")
    return [Layer.skipped(name, "folder" if name.endswith("/") else "file", skip) for name in [*files, *folders]]


def left_out_beside(folder: Location, used: Collection[str]) -> list[Layer]:
    """What is not read of a folder in which only these files and folders are."""
    return left_out(folder, [name for name in weights_files(folder) if name not in used], used)


def _paths(folder: Location, network: Network) -> list[Location]:
    return [folder / name for name in network.files]


def _refuse_copies(folder: Location, found: dict[Network, Sequence[Layer]]) -> None:
    """Refuse files whose layers have the same names and shapes: the mean over checkpoints of a run means nothing."""
    files: dict[frozenset[tuple[str, object]], list[str]] = {}
    for network, layers in found.items():
        described = frozenset((layer.name, layer.spec.shape if layer.spec else None) for layer in layers)
        files.setdefault(described, []).append(network.files[0])
    for names in files.values():
        if len(names) > 1:
            cause = f"several files of the same network, give the path of one: {names[:MAX_NAMES]}"
            raise WeightsFileError(folder, cause)


def _prefixes(networks: Sequence[Network]) -> dict[Network, str]:
    """A name for each network: the stem, or the name of the file if a stem occurs twice."""
    stems = [network.stem for network in networks]
    return {
        network: PurePath(network.files[0]).name if stems.count(network.stem) > 1 else network.stem
        for network in networks
    }
