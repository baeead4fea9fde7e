"""Linux without what only Linux has: anonymous memory files, reserved space, a signal when a pipe closes."""

from __future__ import annotations

import contextlib
import fcntl
import os


def take_away() -> None:
    """From now on this process does what other systems make it do."""
    for module, name in [(os, "memfd_create"), (os, "posix_fallocate"), (fcntl, "F_SETSIG")]:
        with contextlib.suppress(AttributeError):
            delattr(module, name)
