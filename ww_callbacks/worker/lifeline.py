"""Makes the worker exit when the trainer does, however it exits.

The trainer holds the writing end of a pipe on which nothing is sent. When the trainer exits, the kernel closes that
end. The worker must then exit within two seconds, even while an eigensolver holds the GIL.
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
    """The method for this system: "signal" on Linux, which can send a signal for a descriptor; otherwise "thread"."""
    return "signal" if hasattr(fcntl, "F_SETSIG") else "thread"


def exit_on_close(fd: int, method: Method) -> None:
    """Exit this process when the other end of a pipe is closed.

    Args:
        fd: reading end of a pipe whose writing end is held by the trainer only.
        method: "signal" makes the kernel send SIGKILL when the other end closes, whatever this process is doing.
            "thread" waits in a thread, which runs as soon as it gets the GIL.
    """
    if method == "signal":
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        # The other end may have been closed before the signal was requested.
        poll = select.poll()
        poll.register(fd, 0)
        if poll.poll(0):
            os._exit(0)
    else:
        threading.Thread(target=_wait, args=(fd,), name="ww-lifeline", daemon=True).start()


def _wait(fd: int) -> None:
    os.read(fd, 1)
    os._exit(0)
