"""Allocation of memory that a child process can map, and the amount that is available."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ww_callbacks.worker import forking

_log = logging.getLogger("ww_callbacks")


def check_available(nbytes: int) -> None:
    """Check that enough memory is available. Otherwise the kernel could kill the trainer instead of raising an error.

    Raises:
        MemoryError: there is not enough memory.
    """
    available = available_memory()
    if available is not None and nbytes > available:
        raise MemoryError(
            f"the snapshots need {nbytes / 2**20:.0f} MiB, but only {available / 2**20:.0f} MiB are available; "
            "analyse fewer layers (layers=) or set a budget"
        )


def available_memory() -> int | None:
    """Bytes of memory available to this process, by the machine and its control group; None if unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found, default=None)


def allocate(nbytes: int) -> int:
    """The descriptor of an unnamed file of ``nbytes``.

    The space is reserved, because writing to a file without space would raise SIGBUS.

    Raises:
        OSError: there is neither enough shared memory nor enough disk space.
    """
    error: OSError | None = None
    for create in _backends():
        try:
            return _reserved(create(), nbytes)
        except OSError as caught:
            name = create.__name__.replace("_", " ")
            _log.warning("cannot allocate %.0f MiB of %s for the snapshots: %s", nbytes / 2**20, name, caught)
            error = caught
    assert error is not None
    raise error


def _backends() -> Iterator[Callable[[], int]]:
    """Functions that create an unnamed file, in order of preference."""
    if hasattr(os, "memfd_create"):
        yield shared_memory
    yield temporary_file


def _reserved(fd: int, nbytes: int) -> int:
    """Reserve the space of a file; the descriptor, above those of the standard streams."""
    fd = forking.above_standard_streams(fd)
    try:
        os.ftruncate(fd, nbytes)
        reserve(fd, 0, nbytes)
    except OSError:
        os.close(fd)
        raise
    return fd


def reserve(fd: int, offset: int, nbytes: int) -> None:
    """Reserve the space of a part of a file, on systems that can.

    Raises:
        OSError: there is not enough space.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, offset, nbytes)


def shared_memory() -> int:
    """Create an unnamed file in memory."""
    return os.memfd_create("ww_callbacks", os.MFD_CLOEXEC)


def temporary_file() -> int:
    """Create an unnamed file on disk."""
    with tempfile.TemporaryFile(prefix="ww_callbacks") as file:
        return os.dup(file.fileno())
