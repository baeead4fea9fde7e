"""Resources that a forked child must close.

A process forked from the trainer, such as a DataLoader worker, inherits all open pipes and memory mappings. While it
keeps them open, the worker does not notice the death of the trainer, and shared memory is not freed.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class _Resource(Protocol):
    def close_in_child(self) -> None: ...


_resources: weakref.WeakSet[_Resource] = weakref.WeakSet()

fork_lock = threading.RLock()
"""Blocks forks. Hold it from opening a descriptor until its resource is registered.

Reentrant: a signal handler may fork in the thread that holds it.
"""


def close_in_children(resource: _Resource) -> None:
    """Register a resource: ``resource.close_in_child()`` is called in every process forked from this one."""
    _resources.add(resource)


def _after_in_child() -> None:
    fork_lock.release()
    for resource in list(_resources):
        resource.close_in_child()
    _resources.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=fork_lock.acquire, after_in_parent=fork_lock.release, after_in_child=_after_in_child)


def above_standard_streams(fd: int) -> int:
    """Move a descriptor above 0, 1 and 2. It may have one of these numbers if a standard stream was closed."""
    if fd > 2:
        return fd
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved
