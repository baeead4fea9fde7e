"""Adapter for an executor provided by the user, such as a cluster or a process pool."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from numpy.typing import NDArray

from ww_callbacks.worker.kept import Kept
from ww_callbacks.worker.protocol import Message

MAX_FAILURES = 3
"""After this many failed tasks in a row the executor is not used any more."""


class ExternalExecutor:
    """Submits tasks to an executor owned by the user, and never shuts it down.

    Args:
        executor: receives a module-level function, a dictionary of plain values and a plain array.
        timeout: seconds without any result after which the executor is considered to hang.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> import numpy as np
        >>> def total(task, stored):
        ...     return {"total": task["factor"] * float(stored.sum())}
        >>> with ThreadPoolExecutor() as pool:
        ...     ExternalExecutor(pool, timeout=60.0).submit(total, {"factor": 2}, np.ones(3)).result()
        {'total': 6.0}
    """

    pids: tuple[int, ...] = ()

    def __init__(self, executor: Executor, timeout: float) -> None:
        self._executor, self._timeout = executor, timeout
        self._lock = threading.Lock()
        self._pending: set[Future[Message]] = set()
        self._last_result = 0.0
        self._failures = 0
        self._error = ""
        self._closed = False

    def submit(
        self, fn: Callable[..., Message], task: Message, stored: NDArray[Any], kept: Kept | None = None
    ) -> Future[Message]:
        """Submit one layer. If the executor refuses it, the error is set on the returned future."""
        with self._lock:
            if not self._pending:
                self._last_result = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph", UserWarning)  # expected: it has the weights
                future = self._executor.submit(fn, *((task, stored) if kept is None else (task, stored, kept)))
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
        """Cancel the pending tasks. The executor itself keeps running."""
        with self._lock:
            self._closed = True
            pending = list(self._pending)
        for future in pending:
            with contextlib.suppress(Exception):
                future.cancel()

    def _done(self, future: Future[Message]) -> None:
        error = None if future.cancelled() else future.exception()
        with self._lock:
            self._pending.discard(future)
            self._last_result = time.monotonic()
            if self._closed:
                return
            if error is None and not future.cancelled():
                self._failures = 0
                return
            self._failures += 1
            self._error = f"{type(error).__name__}: {error}" if error is not None else "the task was cancelled"
