"""Keeps checkpoints until they are read, by hard links: training can then delete or replace them."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ww_callbacks.weights.files.remote import Location

FOLDER = ".ww_follow"
"""The folder in that of the run in which checkpoints are kept."""

_NAME = ".name"
"""The file beside a copy with the path of the checkpoint."""

MOST = 8
"""Most checkpoints that are kept at a time. What they hold stays on the disk until it is read."""


class Holding:
    """The checkpoints of a run that are kept.

    Args:
        root: the folder of the run. Links are made inside it, since they cannot lead to another file system. None for a
            run at a URL, where there are none.
        most: most checkpoints that are kept at a time; 0 keeps none.
    """

    def __init__(self, root: Path | None, most: int = MOST) -> None:
        self._root, self._most = root, most

    def keep(self, path: Location) -> Path | None:
        """Link the files of a checkpoint; those that it has in addition since the last call, too.

        Args:
            path: of a file or a folder in that of the run.

        Returns:
            The copy, with the same name; None if no links can be made here, or enough are kept already.

        Raises:
            FileNotFoundError: the checkpoint is gone.
        """
        if self._root is None or not isinstance(path, Path):
            return None
        place = self._root / FOLDER / _key(self._root, path)
        if self._most <= 0 or (not place.exists() and len(self._places()) >= self._most):
            return None
        copy = place / path.name
        try:
            _link(path, copy)
            (place / _NAME).write_text(path.relative_to(self._root).as_posix(), encoding="utf-8")
        except FileNotFoundError:
            if not path.exists():
                raise
            return None  # some of its files were removed meanwhile
        except OSError:
            self._drop(place)
            return None
        return copy

    def kept(self) -> list[tuple[str, Path]]:
        """The checkpoints that are kept: path within the folder of the run, and copy."""
        found = []
        for place in self._places():
            try:
                name = (place / _NAME).read_text(encoding="utf-8")
            except OSError:  # being linked, or being deleted
                continue
            found.append((name, place / Path(name).name))
        return [(name, copy) for name, copy in found if copy.exists()]

    def drop(self, copy: Path) -> None:
        """Delete the links to a checkpoint."""
        self._drop(copy.parent)

    def _drop(self, place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):
            place.parent.rmdir()

    def _places(self) -> list[Path]:
        if self._root is None:
            return []
        try:
            return sorted((self._root / FOLDER).iterdir())
        except FileNotFoundError:
            return []


def _key(root: Path, path: Path) -> str:
    """A name for a checkpoint that another one at the same place does not have."""
    text = f"{path.relative_to(root).as_posix()} {path.stat().st_ino}"
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()


def _link(source: Path, target: Path) -> None:
    if not source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_file(source, target)
        return
    for folder, _, names in os.walk(source):
        inner = target / os.path.relpath(folder, source)
        inner.mkdir(parents=True, exist_ok=True)
        for name in names:
            _link_file(Path(folder, name), inner / name)


def _link_file(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        if not os.path.samefile(source, target):  # it was replaced by a new one
            target.unlink()
            os.link(source, target)
