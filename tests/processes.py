"""What tests ask about our own worker processes; those of other libraries are none of their business."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil


def workers() -> set[int]:
    """Process ids of the workers that this process started."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # also where it is a zombie
            if "ww_callbacks.worker" in child.cmdline():
                found.add(child.pid)
    return found


def eventually(condition: Callable[[], Any], seconds: float = 5.0) -> bool:
    """Whether the condition holds in time: generous, and over as soon as it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@contextlib.contextmanager
def no_worker_left(seconds: float = 2.0) -> Iterator[None]:
    """What is done inside leaves no worker, at most so long after its end."""
    before = workers()
    yield
    assert eventually(lambda: workers() <= before, seconds), "a worker process is left"
