"""What a forked child must let go of.

A process forked from the trainer (a DataLoader worker) inherits every open pipe and mapping. As long as it holds them,
the worker does not notice that the trainer died, and shared memory is not freed.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class _Inherited(Protocol):
    def close_in_child(self) -> None: ...


_inherited: weakref.WeakSet[_Inherited] = weakref.WeakSet()

opening = threading.Lock()
"""Held while descriptors are made that are not registered yet: no fork happens in between."""


def close_in_children(resource: _Inherited) -> None:
    """Have ``resource.close_in_child()`` called in every process that is forked from this one."""
    _inherited.add(resource)


def _after_in_child() -> None:
    opening.release()
    for resource in list(_inherited):
        resource.close_in_child()
    _inherited.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=opening.acquire, after_in_parent=opening.release, after_in_child=_after_in_child)


def above_standard_streams(fd: int) -> int:
    """The same open file under a number that no standard stream has, should a closed one have left its number free."""
    if fd > 2:
        return fd
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved
