"""How long a process is waited for: one that gets little of a busy machine is slow and does not hang."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Patience:
    """Waits for a process that computes until it has used so many seconds of CPU time, for one that does not, so many.

    Where the system does not tell the CPU time of a process, the seconds are those of the clock.

    Args:
        pid: of the process.
        seconds: it may take.
    """

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid, self._seconds = pid, seconds
        self._start = self._seen = cpu_seconds(pid)
        self._deadline = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until :attr:`is_over` is to be asked."""
        return max(self._deadline - time.monotonic(), 0.0)

    @property
    def is_over(self) -> bool:
        """Whether to give the process up; where it has computed since this was asked last, the time goes on."""
        if self.left:
            return False
        if self._start is None or self._seen is None or (now := cpu_seconds(self._pid)) is None:
            return True
        left = self._seconds - (now - self._start)
        if now <= self._seen or left <= 0:
            return True
        self._seen = now
        self._deadline = time.monotonic() + left  # it needs at least so long
        return False


def cpu_seconds(pid: int) -> float | None:
    """CPU time that a process has used; None where the system does not tell.

    Example:
        >>> cpu_seconds(-1) is None
        True
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
