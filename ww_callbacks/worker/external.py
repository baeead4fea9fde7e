"""An executor that somebody else made: a cluster, a pool of processes or threads."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from numpy.typing import NDArray

from ww_callbacks.worker.protocol import Message

MAX_FAILURES = 3
"""After so many tasks that failed in a row the executor is not asked any more."""


class Borrowed:
    """Uses an executor of the user's through ``submit`` alone, and never shuts it down.

    Args:
        executor: gets a module-level function, a dictionary of plain values and a plain array.
        timeout: seconds without any result after which it counts as hanging.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> import numpy as np
        >>> def total(task, stored):
        ...     return {"total": task["factor"] * float(stored.sum())}
        >>> with ThreadPoolExecutor() as pool:
        ...     Borrowed(pool, timeout=60.0).submit(total, {"factor": 2}, np.ones(3)).result()
        {'total': 6.0}
    """

    pids: tuple[int, ...] = ()

    def __init__(self, executor: Executor, timeout: float) -> None:
        self._executor, self._timeout = executor, timeout
        self._lock = threading.Lock()
        self._under_way: set[Future[Message]] = set()
        self._last_result = 0.0
        self._failures = 0
        self._reason = ""
        self._closed = False

    def submit(self, fn: Callable[..., Message], task: Message, stored: NDArray[Any]) -> Future[Message]:
        """Hand one layer over; an executor that refuses it gives a future with its error."""
        with self._lock:
            if not self._under_way:
                self._last_result = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph", UserWarning)  # it is meant to be large
                future = self._executor.submit(fn, task, stored)
        except Exception as error:
            future = Future()
            future.set_exception(error)
        with self._lock:
            self._under_way.add(future)
        future.add_done_callback(self._done)
        return future

    @property
    def broken(self) -> str:
        """Why it is not asked any more; empty while it is."""
        with self._lock:
            if self._failures >= MAX_FAILURES:
                return f"the executor failed {self._failures} times in a row, the last time: {self._reason}"
            if self._under_way and time.monotonic() - self._last_result > self._timeout:
                return f"the executor gave no result within {self._timeout:g} s"
        return ""

    def shutdown(self) -> None:
        """Cancel what is under way; the executor goes on."""
        with self._lock:
            self._closed = True
            under_way = list(self._under_way)
        for future in under_way:
            with contextlib.suppress(Exception):
                future.cancel()

    def _done(self, future: Future[Message]) -> None:
        error = None if future.cancelled() else future.exception()
        with self._lock:
            self._under_way.discard(future)
            self._last_result = time.monotonic()
            if self._closed:
                return
            if error is None and not future.cancelled():
                self._failures = 0
                return
            self._failures += 1
            self._reason = f"{type(error).__name__}: {error}" if error is not None else "the task was cancelled"
