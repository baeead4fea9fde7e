"""Names processes in files, so that others can tell whether the owner of a file has ended."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path


def owner_name() -> str:
    """The name of this process: its id, when it was started, and a digest of its machine. It is valid in a file name.

    Example:
        >>> has_ended(owner_name())
        False
    """
    return f"{os.getpid()}-{_started(os.getpid())}-{_machine()}"


def has_ended(name: str) -> bool:
    """Whether a process is of this machine and has ended; False if that is not known.

    Args:
        name: of the process, as :func:`owner_name` gave it there.
    """
    pid, _, rest = name.partition("-")
    started, _, machine = rest.partition("-")
    if not (pid.isdecimal() and started and machine) or machine != _machine():
        return False
    return _started(int(pid)) != started


@lru_cache(maxsize=1)
def _machine() -> str:
    """What tells this machine, and the namespace of its process ids, from others; empty if it is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        text = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _started(pid: int) -> str:
    """When a process started, in ticks since the machine did; empty if it has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]
