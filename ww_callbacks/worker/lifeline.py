"""The worker ends with its trainer, however that one ends.

The trainer keeps the writing end of a pipe that never carries data. When the trainer is gone, the kernel closes that
end, and the worker must end within two seconds, even in the middle of an eigensolver that holds the interpreter lock.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import Literal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Method = Literal["signal", "thread"]


def default_method() -> Method:
    """Linux can send a chosen signal for a descriptor: "signal" there, "thread" elsewhere."""
    return "signal" if hasattr(fcntl, "F_SETSIG") else "thread"


def hold(fd: int, method: Method) -> None:
    """Tie the life of this process to the reading end ``fd`` of the lifeline.

    Args:
        fd: reading end of a pipe whose writing end only the trainer holds.
        method: "signal" asks the kernel for SIGKILL the moment the other end closes, whatever this process does;
            "thread" waits for it in a thread, which runs as soon as the interpreter lock is free.
    """
    if method == "signal":
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        # The other end may have closed before the signal was asked for.
        poll = select.poll()
        poll.register(fd, 0)
        if poll.poll(0):
            os._exit(0)
    else:
        threading.Thread(target=_wait, args=(fd,), name="ww-lifeline", daemon=True).start()


def _wait(fd: int) -> None:
    os.read(fd, 1)
    os._exit(0)
