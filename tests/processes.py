"""Find the worker processes of this package. Processes of other libraries are ignored."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil


def workers() -> set[int]:
    """Return the process ids of the workers that this process started."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # also raised for a zombie
            if "ww_callbacks.worker" in child.cmdline():
                found.add(child.pid)
    return found


def eventually(condition: Callable[[], Any], seconds: float = 5.0) -> bool:
    """Wait until the condition holds. Return False if it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@contextlib.contextmanager
def no_worker_left(seconds: float = 2.0) -> Iterator[None]:
    """Check that the body leaves no worker process ``seconds`` after it ends."""
    before = workers()
    yield
    assert eventually(lambda: workers() <= before, seconds), "a worker process is left"


def held() -> dict[str, int]:
    """How many descriptors, threads, child processes and shared memory this process holds (Linux)."""
    maps = Path("/proc/self/maps").read_text()
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "children": len(psutil.Process().children(recursive=True)),
        "mappings": maps.count("memfd:ww_callbacks"),
        "named memory": len(list(Path("/dev/shm").glob("*ww_callbacks*"))),
    }
