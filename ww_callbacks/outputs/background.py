"""Work that may wait for a disk or a network, done by a separate thread, so that training does not wait."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue

MOST_WAITING = 256
"""Maximal number of pieces that wait."""

SILENT = 1.0
"""Seconds of waiting at the end before a message says so."""

Piece = Callable[[], object]
"""A piece of work."""

_log = logging.getLogger("ww_callbacks")


class Background:
    """Does pieces of work without waiting: a thread does one after the other, in order.

    After an error, or if the work takes too long, nothing more is done, and each later call raises that error. The
    thread ends with :meth:`close`, or when the object is deleted.

    Args:
        name: of the thread.
        place: what the work may wait for, in messages.
        timeout: seconds that :meth:`flush` and :meth:`close` wait.
        last: called by the thread at its end, also after an error.

    Attributes:
        errors: the first one ends the work.

    Example:
        >>> background, done = Background("example", "the example"), []
        >>> background.add(lambda: done.append(1))
        >>> background.close()
        >>> done
        [1]
    """

    def __init__(self, name: str, place: str, *, timeout: float = 10.0, last: Piece | None = None) -> None:
        self._place, self._timeout = place, timeout
        self._pieces: SimpleQueue[Piece | None] = SimpleQueue()
        self.errors: list[Exception] = []
        # The thread does not refer to this object, so that its deletion ends the thread.
        self._thread = threading.Thread(
            target=_run, args=(self._pieces, self.errors, last), name=f"ww_callbacks {name}", daemon=True
        )
        self._thread.start()
        self._end = weakref.finalize(self, _end, self._pieces, self._thread, timeout, place)

    def add(self, piece: Piece) -> None:
        """Queue a piece of work.

        Args:
            piece: done in the thread. What it uses must not change any more.

        Raises:
            TimeoutError: too many pieces are waiting.
            Exception: that of an earlier piece.
        """
        if self._pieces.qsize() >= MOST_WAITING:
            self._fail(f"{MOST_WAITING} pieces wait for it")
        self._tell()
        self._pieces.put(piece)

    def flush(self) -> None:
        """Wait until everything so far is done, for a few seconds at most; after an error, do not wait.

        Raises:
            TimeoutError: it is not done in time.
            Exception: that of an earlier piece.
        """
        done = threading.Event()
        self.add(done.set)
        end = time.monotonic() + self._timeout
        while not done.wait(0.1) and not self.errors:
            if time.monotonic() > end:
                self._fail_late()
        self._tell()

    def close(self) -> None:
        """Wait until everything is done, for a few seconds at most; after an error, do not wait.

        Raises:
            TimeoutError: it is not done in time.
            Exception: that of an earlier piece.
        """
        if self.errors:
            self._end.detach()
            self._pieces.put(None)
        else:
            self._end()
            if self._thread.is_alive():
                self._fail_late()
        self._tell()

    def _fail_late(self) -> None:
        self._fail(f"not all is written after {self._timeout:g} s")

    def _fail(self, reason: str) -> None:
        self.errors.append(TimeoutError(f"{self._place} is too slow, {reason}"))

    def _tell(self) -> None:
        if self.errors:
            raise self.errors[0]


def _run(pieces: SimpleQueue[Piece | None], errors: list[Exception], last: Piece | None) -> None:
    try:
        while (piece := pieces.get()) is not None:
            if errors:
                continue
            try:
                piece()
            except Exception as error:  # the next call of the training thread raises it
                errors.append(error)
            del piece  # the thread would keep a report alive until the next one
    finally:
        if last is not None:
            last()


def _end(pieces: SimpleQueue[Piece | None], thread: threading.Thread, timeout: float, place: str) -> None:
    pieces.put(None)
    if thread is threading.current_thread():  # when the garbage collector runs in that thread
        return
    thread.join(min(SILENT, timeout))
    if thread.is_alive():
        _log.warning("waiting at most %g s for %s", timeout - SILENT, place)
        thread.join(max(timeout - SILENT, 0))
