"""A file written by a separate thread, so that a slow disk never blocks training."""

from __future__ import annotations

import os
import threading
import weakref
from queue import SimpleQueue
from typing import BinaryIO

MOST_WAITING = 256
"""Maximum number of pieces that wait for the disk."""

CLOSE_TIMEOUT = 5.0
"""Seconds that the end of a run waits for the disk."""


class AppendedFile:
    """Takes pieces of a file without waiting; a thread writes each one at once, in order.

    Args:
        path: the file.
        mode: "xb" for a new file, "ab" to append.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], mode: str) -> None:
        self._path = os.fspath(path)
        self._pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self._errors: list[OSError] = []
        file = open(path, mode, buffering=0)  # noqa: SIM115 - closed by the thread
        # The thread holds the pieces and not this object, so that it ends when this object is deleted.
        self._thread = threading.Thread(
            target=_write_all, args=(file, self._pieces, self._errors), name="ww_callbacks file", daemon=True
        )
        self._thread.start()
        self._end = weakref.finalize(self, _end, self._pieces, self._thread)

    def write(self, piece: bytes) -> None:
        """Queue a piece.

        Raises:
            OSError: an earlier piece could not be written, or too many are waiting.
        """
        if self._pieces.qsize() >= MOST_WAITING:
            self._fail(f"{MOST_WAITING} pieces wait for it")
        self._raise_error()
        self._pieces.put(piece)

    def close(self) -> None:
        """Wait until all pieces are written, for a few seconds at most; after an error, do not wait.

        Raises:
            OSError: a piece could not be written, or not in time.
        """
        if self._errors:
            self._end.detach()
            self._pieces.put(None)
        else:
            self._end()
            if self._thread.is_alive():
                self._fail(f"not all is written after {CLOSE_TIMEOUT:g} s")
        self._raise_error()

    def _fail(self, reason: str) -> None:
        self._errors.append(OSError(f"{self._path}: the disk is too slow, {reason}"))

    def _raise_error(self) -> None:
        if self._errors:
            raise self._errors[0]


def _write_all(file: BinaryIO, pieces: SimpleQueue[bytes | None], errors: list[OSError]) -> None:
    with file:
        while (piece := pieces.get()) is not None:
            rest = memoryview(piece)
            try:
                while rest and not errors:
                    rest = rest[file.write(rest) :]
            except OSError as error:
                errors.append(error)


def _end(pieces: SimpleQueue[bytes | None], thread: threading.Thread) -> None:
    pieces.put(None)
    if thread is not threading.current_thread():  # when the garbage collector runs in that thread
        thread.join(CLOSE_TIMEOUT)
