"""Time limit for another process. A process that gets little CPU time on a busy machine is slow, not hanging."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Deadline:
    """A limit on the CPU time of a busy process, or on the wall-clock time while it is idle.

    If the system does not report the CPU time of a process, the limit is on the wall-clock time.

    Args:
        pid: process id.
        timeout: limit in seconds.
    """

    def __init__(self, pid: int, timeout: float) -> None:
        self._pid, self._timeout = pid, timeout
        self._start = self._last = cpu_seconds(pid)
        self._end = time.monotonic() + timeout

    @property
    def remaining(self) -> float:
        """Seconds until :meth:`expired` should be called."""
        return max(self._end - time.monotonic(), 0.0)

    def expired(self) -> bool:
        """Whether the limit is reached. It is extended if the process has used CPU time since the last call."""
        if self.remaining:
            return False
        if self._start is None or self._last is None or (now := cpu_seconds(self._pid)) is None:
            return True
        left = self._timeout - (now - self._start)
        if now <= self._last or left <= 0:
            return True
        self._last = now
        self._end = time.monotonic() + left  # the process needs at least this long to use the rest
        return False


def cpu_seconds(pid: int) -> float | None:
    """CPU time used by a process; None if the system does not report it.

    Example:
        >>> cpu_seconds(-1) is None
        True
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
