"""Keeps checkpoints until they are read, by hard links: training can then delete or replace them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

from ww_callbacks.following.owners import has_ended, owner_name
from ww_callbacks.weights.files.remote import Location

FOLDER = ".ww_follow"
"""The folder in that of the run in which checkpoints are kept."""

_NAME = ".name"
"""The file beside a copy with the path of the checkpoint."""

_PATIENCE = 600.0
"""Seconds after which a draft of another machine is taken for abandoned."""

MOST = 8
"""Most checkpoints that are kept at a time. What they hold stays on the disk until it is read."""


class Holding:
    """The checkpoints of a run that are kept.

    Links are made in a draft, which is then renamed, and a copy is renamed before it is deleted. The name of a draft
    begins with a dot and holds that of its owner, so that those of a process that was killed can be deleted.

    Args:
        root: the folder of the run. Links are made inside it, since they cannot lead to another file system. None for a
            run at a URL, where there are none.
        most: most checkpoints that are kept at a time; 0 keeps none.
    """

    def __init__(self, root: Path | None, most: int = MOST) -> None:
        self._root, self._most = root, most
        self._drafts: dict[str, float] = {}

    @property
    def _folder(self) -> Path:
        assert self._root is not None
        return self._root / FOLDER

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
        place = self._folder / _key(self._root, path)
        if self._most <= 0 or (not place.exists() and len(self._places()) >= self._most):
            return None
        try:
            if place.exists():
                _link(path, place / path.name)
            else:
                self._add(path, place)
        except FileNotFoundError:
            if not path.exists():
                raise
            return None  # some of its files were removed meanwhile
        except OSError:
            self._drop(place)
            return None
        return place / path.name

    def _add(self, path: Path, place: Path) -> None:
        draft = self._draft()
        try:
            _link(path, draft / path.name)
            (draft / _NAME).write_text(path.relative_to(self._folder.parent).as_posix(), encoding="utf-8")
            os.rename(draft, place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another follower was faster
                raise
        finally:
            self._delete(draft)

    def kept(self) -> list[tuple[str, Path]]:
        """The checkpoints that are kept: path within the folder of the run, and copy."""
        self._clear_drafts()
        found = []
        for place in self._places():
            try:
                name = (place / _NAME).read_text(encoding="utf-8")
            except OSError:  # being deleted
                continue
            found.append((name, place / Path(name).name))
        return [(name, copy) for name, copy in found if copy.exists()]

    def drop(self, copy: Path) -> None:
        """Delete the links to a checkpoint."""
        self._drop(copy.parent)

    def _drop(self, place: Path) -> None:
        draft = self._draft()
        with suppress(OSError):
            os.rename(place, draft)
        self._delete(draft)

    def _delete(self, draft: Path) -> None:
        shutil.rmtree(draft, ignore_errors=True)
        with suppress(OSError):
            self._folder.rmdir()

    def _draft(self) -> Path:
        return self._folder / f".{owner_name()}.{uuid.uuid4().hex}"

    def _clear_drafts(self) -> None:
        """Delete the drafts of processes that were killed."""
        now = time.monotonic()
        self._drafts = {name: self._drafts.get(name, now) for name in self._names() if name.startswith(".")}
        for name, since in self._drafts.items():
            if has_ended(name[1:].partition(".")[0]) or now - since > _PATIENCE:
                self._delete(self._folder / name)

    def _places(self) -> list[Path]:
        return [self._folder / name for name in self._names() if not name.startswith(".")]

    def _names(self) -> list[str]:
        if self._root is None:
            return []
        try:
            return sorted(os.listdir(self._folder))
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
