"""Circumstances of other machines: without what only Linux has; with a disk that is full."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import subprocess
import sys

NO_RIGHT = 77
"""Exit status of a program that may not mount."""

_NEW_MOUNTS = 0x00020000


def take_away() -> None:
    """From now on this process does what other systems make it do."""
    for module, name in [(os, "memfd_create"), (os, "posix_fallocate"), (fcntl, "F_SETSIG")]:
        with contextlib.suppress(AttributeError):
            delattr(module, name)


def small_disk(folder: str, size: str) -> None:
    """Mount a disk of that size, for this process and its children alone: it is gone when they are."""
    if ctypes.CDLL(None).unshare(_NEW_MOUNTS):
        sys.exit(NO_RIGHT)
    for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]):
        if subprocess.run(["mount", *command], check=False, capture_output=True).returncode:
            sys.exit(NO_RIGHT)
