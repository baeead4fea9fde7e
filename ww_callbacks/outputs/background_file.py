"""A file encoded and written by a separate thread, so that neither takes time from training."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Literal

from ww_callbacks.checks import warn
from ww_callbacks.outputs.background import Background

CLOSE_TIMEOUT = 5.0
"""Seconds that the end of a run waits for the disk."""

Mode = Literal["xb", "ab"]
"""How a file is opened: a new one, or to append."""

Encode = Callable[[], bytes]
"""Makes a piece of a file."""


class AppendedFile:
    """Takes pieces of a file without waiting; a thread encodes and writes each one at once, in order.

    If the file is removed, a new one is begun for the pieces that follow, in a new folder if that is gone too. A
    warning says so once.

    Args:
        path: the file.
        mode: "xb" for a new file, "ab" to append.
        header: pieces at the beginning of each new file.
        next_path: gives the path of a file that takes the place of one that was removed; None for the same path.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: Mode,
        *,
        header: Sequence[Encode] = (),
        next_path: Callable[[], str] | None = None,
    ) -> None:
        file = open(path, mode, buffering=0)  # noqa: SIM115 - closed by the thread
        place = os.path.abspath(path)  # the program may change its folder
        self._writer = _Writer(file, place, mode, header, next_path)
        self._background = Background("file", f"{place}: the disk", timeout=CLOSE_TIMEOUT, last=self._writer.close)
        self._writer.errors = self._background.errors
        for piece in header:
            self.write(piece)

    def write(self, piece: Encode) -> None:
        """Queue a piece.

        Args:
            piece: makes it, in the thread. What it uses must not change any more.

        Raises:
            OSError: an earlier piece could not be written, or too many are waiting.
            Exception: that of an earlier piece that could not be made.
        """
        self._say_notes()
        self._background.add(partial(self._writer.write, piece))

    def flush(self) -> None:
        """Wait until the pieces so far are written, for a few seconds at most; after an error, do not wait.

        Raises:
            OSError: a piece could not be written, or not in time.
            Exception: that of a piece that could not be made.
        """
        try:
            self._background.flush()
        finally:
            self._say_notes()

    def close(self) -> None:
        """Wait until all pieces are written, for a few seconds at most; after an error, do not wait.

        Raises:
            OSError: a piece could not be written, or not in time.
            Exception: that of a piece that could not be made.
        """
        try:
            self._background.close()
        finally:
            self._say_notes()

    def _say_notes(self) -> None:
        """Pass on what happened in the thread."""
        while self._writer.notes:
            warn(self._writer.notes.pop())


@dataclass(slots=True)
class _Writer:
    """What the thread does.

    Attributes:
        notes: what the training thread is to warn about.
        errors: one in it ends a piece that is being written.
    """

    file: BinaryIO
    path: str
    mode: Mode
    header: Sequence[Encode]
    next_path: Callable[[], str] | None
    has_noted: bool = False
    notes: list[str] = field(default_factory=list)
    errors: Sequence[Exception] = ()

    def write(self, piece: Encode) -> None:
        """Write a piece, into a new file if the file is removed."""
        if _is_removed(self.file, self.path):
            self._begin_again()
        self._write(piece)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _write(self, piece: Encode) -> None:
        rest = memoryview(piece())
        while rest and not self.errors:
            rest = rest[self.file.write(rest) :]

    def _begin_again(self) -> None:
        removed, self.path = self.path, self.path if self.next_path is None else self.next_path()
        self.file.close()
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            self.file = open(self.path, self.mode, buffering=0)  # noqa: SIM115 - closed by close
        except OSError as error:
            raise OSError(f"{removed} was removed during the run and cannot be written again: {error}") from error
        if not self.has_noted:
            self.has_noted = True
            self.notes.append(
                f"{removed} was removed during the run: a new file has the later results, not the earlier ones"
            )
        for piece in self.header:
            self._write(piece)


def _is_removed(file: BinaryIO, path: str) -> bool:
    """Whether the file has no name any more. It can still be written, but nobody would find it."""
    status = os.fstat(file.fileno())
    if status.st_nlink:
        return False
    try:
        return not os.path.samestat(status, os.stat(path))  # some file systems count no names
    except OSError:
        return True
