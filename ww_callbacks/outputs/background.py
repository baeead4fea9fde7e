"""Calls that may wait for a network, made by a separate thread, so that training does not wait."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

MOST_WAITING = 256
"""Maximal number of calls that wait."""

CLOSE_TIMEOUT = 10.0
"""Seconds that the end of a run waits for the calls that are left."""

Call = Callable[[], object]


@dataclass(slots=True)
class _Shared:
    """What Calls and their thread share. It does not refer to the Calls, whose deletion ends the thread.

    Attributes:
        calls: to make; None is the end.
        errors: the first one ends the calls.
    """

    calls: SimpleQueue[Call | None] = field(default_factory=SimpleQueue)
    errors: list[Exception] = field(default_factory=list)


class Calls:
    """Makes calls one after the other in a thread, which starts with the first one.

    After an error, or when a service is too slow, no further call is made: the next :meth:`add` raises.

    Args:
        name: of what is called, for the messages.

    Example:
        >>> calls, made = Calls("example"), []
        >>> calls.add(lambda: made.append(1))
        >>> calls.close()
        >>> made
        [1]
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._shared = _Shared()
        self._thread: threading.Thread | None = None

    def add(self, call: Call) -> None:
        """Queue a call.

        Args:
            call: made in the thread. What it uses must not change any more.

        Raises:
            TimeoutError: too many calls are waiting.
            Exception: that of an earlier call.
        """
        if self._thread is None:
            self._thread = threading.Thread(
                target=_run, args=(self._shared,), name=f"ww_callbacks {self._name}", daemon=True
            )
            self._thread.start()
            self._end = weakref.finalize(self, _end, self._shared.calls, self._thread)
        if self._shared.calls.qsize() >= MOST_WAITING:
            self._fail(f"{MOST_WAITING} calls wait for it")
        self._tell()
        self._shared.calls.put(call)

    def close(self) -> None:
        """Wait until all calls are made, for a few seconds at most; after an error, do not wait.

        Raises:
            TimeoutError: not all calls were made in time.
            Exception: that of an earlier call.
        """
        if self._thread is None:
            return
        if self._shared.errors:
            self._end.detach()
            self._shared.calls.put(None)
        else:
            self._end()
            if self._thread.is_alive():
                self._fail(f"not everything is sent after {CLOSE_TIMEOUT:g} s")
        self._tell()

    def _fail(self, reason: str) -> None:
        self._shared.errors.append(TimeoutError(f"{self._name} is too slow: {reason}"))

    def _tell(self) -> None:
        if self._shared.errors:
            raise self._shared.errors[0]


def _run(shared: _Shared) -> None:
    while (call := shared.calls.get()) is not None:
        if shared.errors:
            continue
        try:
            call()
        except Exception as error:  # the next call of the training thread raises it
            shared.errors.append(error)
        del call  # the thread would keep a report alive until the next one


def _end(calls: SimpleQueue[Call | None], thread: threading.Thread) -> None:
    calls.put(None)
    if thread is not threading.current_thread():  # when the garbage collector runs in that thread
        thread.join(CLOSE_TIMEOUT)
