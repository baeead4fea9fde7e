"""A file encoded and written by a separate thread, so that neither takes time from training."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import BinaryIO

MOST_WAITING = 256
"""Maximum number of pieces that wait for the disk."""

Encode = Callable[[], bytes]
"""Makes a piece of a file."""

CLOSE_TIMEOUT = 5.0
"""Seconds that the end of a run waits for the disk."""


class AppendedFile:
    """Takes pieces of a file without waiting; a thread encodes and writes each one at once, in order.

    Args:
        path: the file.
        mode: "xb" for a new file, "ab" to append.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], mode: str) -> None:
        self._path = os.fspath(path)
        self._pieces: SimpleQueue[Encode | None] = SimpleQueue()
        self._errors: list[Exception] = []
        file = open(path, mode, buffering=0)  # noqa: SIM115 - closed by the thread
        # The thread holds the pieces and not this object, so that it ends when this object is deleted.
        self._thread = threading.Thread(
            target=_write_all, args=(file, self._pieces, self._errors), name="ww_callbacks file", daemon=True
        )
        self._thread.start()
        self._end = weakref.finalize(self, _end, self._pieces, self._thread)

    def write(self, piece: Encode) -> None:
        """Queue a piece.

        Args:
            piece: makes it, in the thread. What it uses must not change any more.

        Raises:
            OSError: an earlier piece could not be written, or too many are waiting.
            Exception: that of an earlier piece that could not be made.
        """
        if self._pieces.qsize() >= MOST_WAITING:
            self._fail(f"{MOST_WAITING} pieces wait for it")
        self._raise_error()
        self._pieces.put(piece)

    def flush(self) -> None:
        """Wait until the pieces so far are written, for a few seconds at most; after an error, do not wait.

        Raises:
            OSError: a piece could not be written, or not in time.
            Exception: that of a piece that could not be made.
        """
        written = threading.Event()
        self.write(partial(_nothing, written))
        end = time.monotonic() + CLOSE_TIMEOUT
        while not written.wait(0.1) and not self._errors:
            if time.monotonic() > end:
                self._fail(f"not all is written after {CLOSE_TIMEOUT:g} s")
        self._raise_error()

    def close(self) -> None:
        """Wait until all pieces are written, for a few seconds at most; after an error, do not wait.

        Raises:
            OSError: a piece could not be written, or not in time.
            Exception: that of a piece that could not be made.
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


def _write_all(file: BinaryIO, pieces: SimpleQueue[Encode | None], errors: list[Exception]) -> None:
    with file:
        while (piece := pieces.get()) is not None:
            if errors:
                continue
            try:
                rest = memoryview(piece())
                while rest and not errors:
                    rest = rest[file.write(rest) :]
            except Exception as error:  # the next call raises it
                errors.append(error)
            del piece  # the thread would keep a report alive until the next one


def _nothing(written: threading.Event) -> bytes:
    written.set()
    return b""


def _end(pieces: SimpleQueue[Encode | None], thread: threading.Thread) -> None:
    pieces.put(None)
    if thread is not threading.current_thread():  # when the garbage collector runs in that thread
        thread.join(CLOSE_TIMEOUT)
