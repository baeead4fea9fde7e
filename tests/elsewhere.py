"""Simulate other machines: no Linux features, small or read-only disks, another user."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import subprocess
import sys
import tempfile

NO_RIGHT = 77
"""Exit status of a program that the system does not permit to mount, or to become another user."""

_NEW_MOUNTS = 0x00020000


def take_away() -> None:
    """Remove the Linux features that this package uses from this process."""
    for module, name in [(os, "memfd_create"), (os, "posix_fallocate"), (fcntl, "F_SETSIG")]:
        with contextlib.suppress(AttributeError):
            delattr(module, name)


def small_disk(folder: str, size: str) -> None:
    """Mount a disk of that size. Only this process and its children see it; it disappears with them."""
    _own_mounts()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)


def read_only() -> None:
    """Let this process and its children write into no folder."""
    _own_mounts()
    for folder in {os.getcwd(), os.path.expanduser("~"), tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"}:
        if os.path.isdir(folder):
            _mount("--bind", folder, folder)
            _mount("-o", "remount,bind,ro", folder)
    os.chdir(os.getcwd())  # the working directory is still that below the mount


def as_nobody() -> None:
    """Run this program as another user, who may read every file and owns none, if it runs as root."""
    if os.getuid():
        return
    rights = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search"]
    command = ["setpriv", *rights, "--ambient-caps=+dac_read_search"]
    try:
        if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
            sys.exit(NO_RIGHT)
    except FileNotFoundError:
        sys.exit(NO_RIGHT)
    os.execvp(command[0], [*command, sys.executable, *sys.argv])


def _own_mounts() -> None:
    if ctypes.CDLL(None).unshare(_NEW_MOUNTS):
        sys.exit(NO_RIGHT)
    _mount("--make-rprivate", "/")


def _mount(*arguments: str) -> None:
    if subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode:
        sys.exit(NO_RIGHT)
