"""Finds the checkpoints in the folder of a run, by listing it; nothing in them is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ww_callbacks.following.names import is_of_folder, is_unfinished, only_number, step_after_word
from ww_callbacks.patterns import keeps
from ww_callbacks.weights.files.directory import is_weights
from ww_callbacks.weights.files.errors import WeightsFileError
from ww_callbacks.weights.files.foreign import divided_among
from ww_callbacks.weights.files.remote import Location, RemotePath

MAX_DEPTH = 5
"""Levels of folders that are searched."""

_MARKERS = frozenset({".metadata", "_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"})
"""Files of which one is in every checkpoint of torch.distributed.checkpoint or Orbax."""

GONE = (FileNotFoundError, NotADirectoryError, PermissionError)
"""Errors that say that there is no such file any more, or not for us. Others may be of a server that is away."""

Version = tuple[tuple[str, int, int, int | str], ...]
"""The files of a checkpoint: path within it, bytes, time of the last change in nanoseconds, inode (at a URL: tag)."""


def scan(
    root: Location,
    patterns: Sequence[str] = (),
    leave_out: Path | None = None,
    on_error: Callable[[OSError], object] = lambda error: None,
) -> list[str]:
    """The paths of the checkpoints in a folder, relative to it and with slashes, sorted.

    A folder is one checkpoint if it holds a description of torch.distributed.checkpoint or Orbax, or files with the
    names that libraries give to the weights of a model. So is a folder with a step in its name if the files in it have
    none: they are parts of the model. In other folders, and in that of the run, every weights file is a checkpoint.
    Hidden and unfinished files, and links, are left out: what they lead to is found where it is.

    Args:
        root: the folder of the run, or its URL.
        patterns: of the names of checkpoints, or of their paths; ``"!pattern"`` excludes.
        leave_out: a folder that is not searched.
        on_error: called with the error of each inner folder that may not be read, which is left out.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(name for name in _walk(root, "", patterns, leave_out, on_error) if _is_wanted(name, patterns))


def step_of(name: str) -> int | None:
    """The step that the path of a checkpoint states.

    A number after a word such as "step" counts first, in the name or in the nearest folder around it; then the only
    number in the name of a file; then a folder whose name is a number.

    Example:
        >>> step_of("checkpoints/step-100/model_00.pt"), step_of("runs/05-0.31.weights.h5"), step_of("300/default")
        (100, 5, 300)
        >>> step_of("run-5/last.ckpt"), step_of("run-5")
        (None, None)
    """
    parts = list(reversed(name.split("/")))
    steps = [step_after_word(part) for part in parts]
    steps.append(only_number(parts[0]) if is_weights(parts[0]) else None)
    steps += [int(part) for part in parts if part.isascii() and part.isdigit()]
    return next((step for step in steps if step is not None), None)


def version_of(path: Location) -> Version:
    """The files of a checkpoint as they are now.

    Raises:
        OSError: it is gone, or cannot be read.
    """
    if isinstance(path, RemotePath):
        with _reachable():
            return tuple(sorted((name, *mark) for name, mark in path.marks().items()))
    if not path.is_dir():
        return (_facts("", os.stat(path)),)
    files = []
    for folder, _, names in os.walk(path, onerror=_fail):
        for name in names:
            file = os.path.join(folder, name)
            files.append(_facts(os.path.relpath(file, path), os.stat(file)))
    return tuple(sorted(files))


def written_at(version: Version) -> float:
    """When the last of the files of a checkpoint was written, in seconds since the epoch."""
    return max((changed for _, _, changed, _ in version), default=0) / 1e9


def still_holds(before: Version, now: Version) -> bool:
    """Whether the files of a checkpoint have not changed; files may have been added.

    Example:
        >>> before = (("a", 10, 1, 7),)
        >>> still_holds(before, (*before, ("b", 5, 2, 8))), still_holds(before, (("a", 12, 2, 7),))
        (True, False)
    """
    return set(before) <= set(now)


def _walk(
    folder: Location,
    inside: str,
    patterns: Sequence[str],
    leave_out: Path | None,
    on_error: Callable[[OSError], object],
) -> Iterator[str]:
    """The checkpoints in a folder, as paths that begin with ``inside``."""
    files: list[str] = []
    folders: list[str] = []
    for name, is_folder in sorted(_entries(folder)):
        if name in _MARKERS or not is_unfinished(name):
            (folders if is_folder else files).append(name)
    weights, path = [name for name in files if is_weights(name)], inside.rstrip("/")
    if path and (_is_checkpoint(files, folders) or (_holds_parts(path, weights) and _is_wanted(path, patterns))):
        yield path
        return
    yield from (inside + name for name in weights)
    if inside.count("/") < MAX_DEPTH:
        for name in folders:
            if folder / name == leave_out:
                continue
            try:
                yield from _walk(folder / name, f"{inside}{name}/", patterns, leave_out, on_error)
            except PermissionError as error:
                on_error(error)
            except GONE:
                continue  # removed meanwhile


def _entries(folder: Location) -> list[tuple[str, bool]]:
    """The files and folders in a folder, and whether each is a folder. What links lead to is found where it is."""
    if isinstance(folder, RemotePath):
        with _reachable():
            return [(name, is_folder) for name, is_folder in folder.entries() if "\\" not in name]
    with os.scandir(folder) as listing:
        entries = [entry for entry in listing if not entry.is_symlink()]
        return [(entry.name, entry.is_dir()) for entry in entries if entry.is_dir() or entry.is_file()]


@contextmanager
def _reachable() -> Iterator[None]:
    """Turn the error of a server that is away into an OSError, after which a follower tries again."""
    try:
        yield
    except WeightsFileError as error:
        raise OSError(str(error)) from None


def _is_wanted(name: str, patterns: Sequence[str]) -> bool:
    """Whether patterns select a path: they may be of the whole path or of its last part."""
    either = (name, name.rpartition("/")[2])
    included = [pattern for pattern in patterns if not pattern.startswith("!")]
    excluded = [pattern for pattern in patterns if pattern.startswith("!")]
    return any(keeps(included, each) for each in either) and all(keeps(excluded, each) for each in either)


def _is_checkpoint(files: Sequence[str], folders: Sequence[str]) -> bool:
    is_named = any(name in _MARKERS or name.endswith(".distcp") or is_of_folder(name) for name in files)
    return is_named or bool(divided_among([*files, *folders]))


def _holds_parts(path: str, weights: Sequence[str]) -> bool:
    """Whether the name of a folder states a step, and those of the weights files in it do not."""
    has_step = step_after_word(path.rpartition("/")[2]) is not None
    return has_step and bool(weights) and all(step_after_word(name) is None for name in weights)


def _facts(name: str, status: os.stat_result) -> tuple[str, int, int, int]:
    return name, status.st_size, status.st_mtime_ns, status.st_ino


def _fail(error: OSError) -> None:
    raise error
