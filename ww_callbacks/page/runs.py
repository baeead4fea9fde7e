"""The runs in a folder, found again as they appear."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from ww_callbacks.outputs.jsonl import FILE_NAME
from ww_callbacks.page.run import Run
from ww_callbacks.page.sources import OWN_FOLDER, RunFiles

LOOK = 2.0
"""Seconds between two looks for new runs."""
MAX_FOLDERS = 20_000
"""Folders that a look visits at most."""
MAX_WIDE = 3
"""Runs with all columns in memory at a time."""
LISTING = 0.5
"""Seconds that a list of the runs spends on reading them."""

_OTHER = "@"
"""Stands between the id of a run and the prefix of a further monitor; in names of folders it is quoted."""

HERE = "."
"""Id of a run whose folder is the one that was given."""


class Runs:
    """The runs in a folder and below.

    A run is a folder with event files in ``ww`` or with JSON lines of ours, or else a folder whose event files hold
    results of ours. Event files below a run belong to it, such as those of Keras in ``train`` and ``validation``.

    Args:
        folder: to look in. Links to folders are not followed.

    Raises:
        OSError: it is no folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise NotADirectoryError(
                f"{folder}: there is no folder of that name; give the folder with the logs of runs"
            )
        self.folder = folder
        self.problems: list[str] = []
        self._files: dict[str, RunFiles] = {}
        self._read: set[str] = set()
        self._looked = -LOOK
        self._wide: list[str] = []

    def look(self) -> None:
        """Find new runs, at most every two seconds."""
        if time.monotonic() - self._looked < LOOK:
            return
        folders, is_complete = _folders(self.folder)
        self.problems = [] if is_complete else [f"only the first {MAX_FOLDERS} folders were searched for runs"]
        found = _by_run(folders)
        known = {_id(self.folder, root) for root in found}
        for gone in [identity for identity in self._files if identity.partition(_OTHER)[0] not in known]:
            del self._files[gone]
        for root, inside in found.items():
            identity = _id(self.folder, root)
            if identity not in self._files:
                name = self.folder.resolve().name if identity == HERE else root.relative_to(self.folder).as_posix()
                self._files[identity] = RunFiles(root, name)
            self._files[identity].folders = tuple(inside)
            self._find_others(identity)
        self._looked = time.monotonic()

    def _find_others(self, identity: str) -> None:
        """Add a run for each further monitor that wrote into the files of a run; its metrics have another prefix."""
        if _OTHER in identity:
            return
        first = self._files[identity]
        for prefix in sorted(first.others):
            other = f"{identity}{_OTHER}{prefix}"
            if other not in self._files:
                self._files[other] = RunFiles(first.folder, f"{first.run.name} ({prefix})", prefix)
            self._files[other].folders = first.folders

    @property
    def identities(self) -> list[str]:
        """The ids of all folders that may be runs."""
        return sorted(self._files)

    def get(self, identity: str) -> RunFiles:
        """A run, with what its files hold now.

        Args:
            identity: of the run.

        Raises:
            KeyError: there is no such run.
        """
        self.look()
        files = self._files[identity]
        files.poll()
        self._find_others(identity)
        self._read.add(identity)
        return files

    def wide(self, identity: str) -> Run:
        """A run whose columns are about to be read; those of runs that were looked at long ago are dropped.

        Raises:
            KeyError: there is no such run.
        """
        run = self.get(identity).run if identity not in self._read else self._files[identity].run
        self._wide = [each for each in self._wide if each != identity] + [identity]
        for each in self._wide[:-MAX_WIDE]:
            if each in self._files:
                self._files[each].run.forget()
        self._wide = self._wide[-MAX_WIDE:]
        return run

    def listed(self) -> Iterator[tuple[str, RunFiles, bool]]:
        """The runs with results of ours or not read yet: id, files, and whether they were read; the latest first."""
        self.look()
        end = time.monotonic() + LISTING
        for identity in sorted(self._files, key=lambda each: -_changed(self._files[each])):
            if time.monotonic() > end:
                break
            self.get(identity)
        for identity, files in self._files.items():
            is_read = identity in self._read
            if files.is_ours or files.problem or not is_read:
                yield identity, files, is_read


def _id(folder: Path, root: Path) -> str:
    """The path below the folder in characters that every address can hold."""
    return quote(os.fsencode(root.relative_to(folder).as_posix()), safe="/")


def _changed(files: RunFiles) -> float:
    """When a folder of the run was changed last."""
    try:
        return max((folder.stat().st_mtime for folder in files.folders), default=0.0)
    except OSError:
        return 0.0


def _folders(folder: Path) -> tuple[list[Path], bool]:
    """The folders with event files or JSON lines, and whether all could be visited."""
    found: list[Path] = []
    for number, (path, folders, names) in enumerate(os.walk(folder)):
        if number >= MAX_FOLDERS:
            return found, False
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if FILE_NAME in names or any("tfevents" in name for name in names):
            found.append(Path(path))
    return found, True


def _by_run(folders: Iterable[Path]) -> dict[Path, list[Path]]:
    """The folder of each run → its folders with event files.

    Example:
        >>> paths = [Path(name) for name in ("logs/a", "logs/a/ww", "logs/k/train", "logs/k/ww", "logs/other")]
        >>> {root.name: [path.name for path in inside] for root, inside in _by_run(paths).items()}
        {'a': ['a', 'ww'], 'k': ['train', 'ww'], 'other': ['other']}
    """
    paths = list(folders)
    roots = {path.parent for path in paths if path.name == OWN_FOLDER}
    roots |= {path for path in paths if path.name != OWN_FOLDER and (path / FILE_NAME).exists()}
    found: dict[Path, list[Path]] = {}
    for path in paths:
        owner = next((each for each in (path, *path.parents) if each in roots), path)
        found.setdefault(owner, []).append(path)
    return found
