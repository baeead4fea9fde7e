"""Tells when an executor that cannot tell itself, such as a cluster or a thread, has failed or hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from numpy.typing import NDArray

from ww_callbacks.worker.kept import Kept
from ww_callbacks.worker.pool import Pool
from ww_callbacks.worker.protocol import Message

MAX_FAILURES = 3
"""After this many failed tasks in a row the executor is not used any more."""


class Watched:
    """Submits tasks to a pool, and counts its failures and the time without a result.

    Args:
        pool: runs the tasks, and is shut down at the end.
        timeout: seconds without any result after which the pool is considered to hang.

    Example:
        >>> import numpy as np
        >>> from ww_callbacks.worker.pool import ThreadPool
        >>> from ww_callbacks.worker.task import run_task
        >>> watched = Watched(ThreadPool(), timeout=60.0)
        >>> watched.submit(run_task, {"step": None}, np.ones(3)).result()["error"]
        "KeyError: 'spec'"
        >>> watched.broken
        ''
    """

    pids: tuple[int, ...] = ()

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool, self._timeout = pool, timeout
        self._lock = threading.Lock()
        self._pending: set[Future[Message]] = set()
        self._last_result = 0.0
        self._failures = 0
        self._error = ""
        self._closed = False

    def submit(
        self, fn: Callable[..., Message], task: Message, stored: NDArray[Any], kept: Kept | None = None
    ) -> Future[Message]:
        """Submit one layer without blocking. If the pool refuses it, the error is set on the returned future."""
        with self._lock:
            if not self._pending:
                self._last_result = time.monotonic()
        try:
            future = self._pool.submit(fn, task, stored, kept)
        except Exception as error:
            future = Future()
            future.set_exception(error)
        with self._lock:
            self._pending.add(future)
        future.add_done_callback(self._done)
        return future

    @property
    def broken(self) -> str:
        """Why the executor is not used any more; empty if it is."""
        with self._lock:
            if self._failures >= MAX_FAILURES:
                return f"the executor failed {self._failures} times in a row; last error: {self._error}"
            if self._pending and time.monotonic() - self._last_result > self._timeout:
                return f"the executor returned no result within {self._timeout:g} s"
        return ""

    def shutdown(self) -> None:
        """Cancel the pending tasks and shut the pool down."""
        with self._lock:
            self._closed = True
            pending = list(self._pending)
        for future in pending:
            future.cancel()
        self._pool.shutdown()

    def _done(self, future: Future[Message]) -> None:
        error = CancelledError() if future.cancelled() else future.exception()
        with self._lock:
            self._pending.discard(future)
            self._last_result = time.monotonic()
            if self._closed:
                return
            if error is None:
                self._failures = 0
                return
            self._failures += 1
            is_cancelled = isinstance(error, CancelledError)
            self._error = "the task was cancelled" if is_cancelled else f"{type(error).__name__}: {error}"
