"""Simulate other machines: no Linux features, or a full disk."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import subprocess
import sys

NO_RIGHT = 77
"""Exit status of a program without permission to mount."""

_NEW_MOUNTS = 0x00020000


def take_away() -> None:
    """Remove the Linux features that this package uses from this process."""
    for module, name in [(os, "memfd_create"), (os, "posix_fallocate"), (fcntl, "F_SETSIG")]:
        with contextlib.suppress(AttributeError):
            delattr(module, name)


def small_disk(folder: str, size: str) -> None:
    """Mount a disk of that size. Only this process and its children see it; it disappears with them."""
    if ctypes.CDLL(None).unshare(_NEW_MOUNTS):
        sys.exit(NO_RIGHT)
    for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]):
        if subprocess.run(["mount", *command], check=False, capture_output=True).returncode:
            sys.exit(NO_RIGHT)
