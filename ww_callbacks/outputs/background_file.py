"""A file encoded and written by a separate thread, so that neither takes time from training."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import BinaryIO, Literal

from ww_callbacks.checks import warn

MOST_WAITING = 256
"""Maximum number of pieces that wait for the disk."""

Mode = Literal["xb", "ab"]
"""How a file is opened: a new one, or to append."""

Encode = Callable[[], bytes]
"""Makes a piece of a file."""

CLOSE_TIMEOUT = 5.0
"""Seconds that the end of a run waits for the disk."""

SILENT = 1.0
"""Seconds of them before it is said."""

_log = logging.getLogger("ww_callbacks")


@dataclass(slots=True)
class _Shared:
    """What an AppendedFile and its thread share. It does not refer to the AppendedFile, whose deletion ends the thread.

    Attributes:
        pieces: to write; None is the end.
        errors: the first one ends the writing.
        notes: what the training thread is to warn about.
    """

    pieces: SimpleQueue[Encode | None] = field(default_factory=SimpleQueue)
    errors: list[Exception] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
        self._path = os.path.abspath(path)  # the program may change its folder
        self._shared = _Shared()
        file = open(path, mode, buffering=0)  # noqa: SIM115 - closed by the thread
        writer = _Writer(file, self._path, mode, header, next_path, self._shared)
        self._thread = threading.Thread(target=writer.run, name="ww_callbacks file", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, _end, self._shared.pieces, self._thread, self._path)
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
        if self._shared.pieces.qsize() >= MOST_WAITING:
            self._fail(f"{MOST_WAITING} pieces wait for it")
        self._tell()
        self._shared.pieces.put(piece)

    def flush(self) -> None:
        """Wait until the pieces so far are written, for a few seconds at most; after an error, do not wait.

        Raises:
            OSError: a piece could not be written, or not in time.
            Exception: that of a piece that could not be made.
        """
        written = threading.Event()
        self.write(partial(_nothing, written))
        end = time.monotonic() + CLOSE_TIMEOUT
        while not written.wait(0.1) and not self._shared.errors:
            if time.monotonic() > end:
                self._fail(f"not all is written after {CLOSE_TIMEOUT:g} s")
        self._tell()

    def close(self) -> None:
        """Wait until all pieces are written, for a few seconds at most; after an error, do not wait.

        Raises:
            OSError: a piece could not be written, or not in time.
            Exception: that of a piece that could not be made.
        """
        if self._shared.errors:
            self._end.detach()
            self._shared.pieces.put(None)
        else:
            self._end()
            if self._thread.is_alive():
                self._fail(f"not all is written after {CLOSE_TIMEOUT:g} s")
        self._tell()

    def _fail(self, reason: str) -> None:
        self._shared.errors.append(OSError(f"{self._path}: the disk is too slow, {reason}"))

    def _tell(self) -> None:
        """Pass on what happened in the thread."""
        while self._shared.notes:
            warn(self._shared.notes.pop())
        if self._shared.errors:
            raise self._shared.errors[0]


@dataclass(slots=True)
class _Writer:
    """What the thread does."""

    file: BinaryIO
    path: str
    mode: Mode
    header: Sequence[Encode]
    next_path: Callable[[], str] | None
    shared: _Shared
    has_noted: bool = False

    def run(self) -> None:
        """Write all pieces, then close the file."""
        try:
            while (piece := self.shared.pieces.get()) is not None:
                if self.shared.errors:
                    continue
                try:
                    if _is_removed(self.file, self.path):
                        self._begin_again()
                    self._write(piece)
                except Exception as error:  # the next call raises it
                    self.shared.errors.append(error)
                del piece  # the thread would keep a report alive until the next one
        finally:
            self.file.close()

    def _write(self, piece: Encode) -> None:
        rest = memoryview(piece())
        while rest and not self.shared.errors:
            rest = rest[self.file.write(rest) :]

    def _begin_again(self) -> None:
        removed, self.path = self.path, self.path if self.next_path is None else self.next_path()
        self.file.close()
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            self.file = open(self.path, self.mode, buffering=0)  # noqa: SIM115 - closed by run
        except OSError as error:
            raise OSError(f"{removed} was removed during the run and cannot be written again: {error}") from error
        if not self.has_noted:
            self.has_noted = True
            self.shared.notes.append(
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


def _nothing(written: threading.Event) -> bytes:
    written.set()
    return b""


def _end(pieces: SimpleQueue[Encode | None], thread: threading.Thread, path: str) -> None:
    pieces.put(None)
    if thread is threading.current_thread():  # when the garbage collector runs in that thread
        return
    thread.join(min(SILENT, CLOSE_TIMEOUT))
    if thread.is_alive():
        _log.warning("waiting at most %g s until %s is written", CLOSE_TIMEOUT - SILENT, path)
        thread.join(max(CLOSE_TIMEOUT - SILENT, 0))
