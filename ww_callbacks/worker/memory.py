"""Copying weights out of training: slots in memory shared with the worker, allocated once and used again."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.worker import forking

Stored = NDArray[np.generic]

_ALIGNMENT = 64

_log = logging.getLogger("ww_callbacks")


class Transfer(Protocol):
    """Weights on their way from a device."""

    def arrived(self) -> bool:
        """Whether they are in the memory of this machine."""

    def wait(self) -> None:
        """Until they are."""

    def copy_to(self, target: Stored) -> None:
        """Copy them, once they are there. Called once."""


Source = Callable[[], "Stored | Transfer"]
"""Gives an array as it is now, or begins its transfer from a device."""


class SnapshotBuffer:
    """``slots`` copies of one set of arrays, in a file without a name that a child process can map.

    The memory is allocated and touched at construction, so that each later copy costs what copying memory costs.
    It is anonymous memory (``memfd``) where the system has it and there is enough, an unlinked temporary file
    elsewhere; nothing can be left behind.

    Args:
        arrays: shape and dtype of each array.
        slots: number of snapshots that can be alive at the same time.
        capacity: bytes of one slot, where snapshots are of some of the arrays only; None for all of them.

    Raises:
        MemoryError: there is not enough memory.
        OSError: there is neither enough shared memory nor enough disk space.

    Example:
        >>> import numpy as np
        >>> buffer = SnapshotBuffer([((2, 3), np.dtype("f4"))], slots=1)
        >>> slot = buffer.take([lambda: np.ones((2, 3), "f4")])
        >>> buffer.array(slot, 0).sum(), buffer.take([lambda: np.ones((2, 3), "f4")])
        (np.float32(6.0), None)
        >>> buffer.release(slot)
        >>> buffer.close()
    """

    def __init__(
        self, arrays: Sequence[tuple[tuple[int, ...], np.dtype[Any]]], slots: int, capacity: int | None = None
    ) -> None:
        self._arrays = list(arrays)
        self._slot_bytes = _whole_pages(_layout(arrays)[1] if capacity is None else capacity)
        self.nbytes = max(self._slot_bytes * slots, mmap.PAGESIZE)
        _check_memory(self.nbytes)
        with forking.opening:
            self.fd = _allocate(self.nbytes)
            self._map = mmap.mmap(self.fd, self.nbytes)
            self._finalizer = weakref.finalize(self, os.close, self.fd)
            self._finalizer.atexit = False
            forking.close_in_children(self)
        memory = np.frombuffer(self._map, dtype=np.uint8)
        memory[:: mmap.PAGESIZE] = 0
        self._memory = memory.data
        self._slots: list[dict[int, Stored]] = [{} for _ in range(slots)]
        self._arriving: dict[int, list[tuple[Transfer, Stored]]] = {}
        self._free = list(range(slots))

    def take(self, reads: Sequence[Source], which: Sequence[int] | None = None) -> int | None:
        """Copy what ``reads`` give into a free slot; what comes from a device is there once :meth:`arrived` says so.

        Args:
            reads: one function per array; an array that it gives must have that array's shape and dtype.
            which: the arrays that are read, by index; None for all.

        Returns:
            The slot, or None where all are in use.

        Raises:
            ValueError: an array has another shape or dtype than the buffer, or they do not fit into a slot.
        """
        if not self._free:
            return None
        slot = self._free[-1]
        which = range(len(self._arrays)) if which is None else which
        self._slots[slot] = self._views(slot, which)
        arriving: list[tuple[Transfer, Stored]] = []
        for target, read in zip(self._slots[slot].values(), reads, strict=True):
            source = read()
            if not isinstance(source, np.ndarray):
                arriving.append((source, target))
                continue
            if source.shape != target.shape or source.dtype != target.dtype:
                raise ValueError(f"reads: expected {target.dtype}{target.shape}, got {source.dtype}{source.shape}")
            np.copyto(target, source)
        self._arriving[slot] = arriving
        return self._free.pop()

    def arrived(self, slot: int, *, wait: bool = False) -> bool:
        """Whether all arrays of a slot are there; those that came from a device are copied now.

        Args:
            slot: that was taken.
            wait: until they are.
        """
        arriving = self._arriving[slot]
        if not wait and not all(transfer.arrived() for transfer, _ in arriving):
            return False
        while arriving:
            transfer, target = arriving[-1]
            transfer.wait()
            transfer.copy_to(target)
            arriving.pop()
        return True

    def _views(self, slot: int, which: Sequence[int]) -> dict[int, Stored]:
        arrays = [self._arrays[index] for index in which]
        offsets, nbytes = _layout(arrays)
        if nbytes > self._slot_bytes:
            raise ValueError(f"which: these arrays need {nbytes} bytes, a slot has {self._slot_bytes}")
        start = slot * self._slot_bytes
        return {
            index: np.ndarray(shape, dtype, self._memory, start + offset)
            for index, (shape, dtype), offset in zip(which, arrays, offsets, strict=True)
        }

    @staticmethod
    def nbytes_of(arrays: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> int:
        """Bytes that arrays take in a slot.

        Example:
            >>> SnapshotBuffer.nbytes_of([((2, 3), np.dtype("f4"))] * 2)
            128
        """
        return _layout(arrays)[1]

    def array(self, slot: int, index: int) -> Stored:
        """The copy of array ``index`` in ``slot``, a view; a KeyError where it was not taken."""
        return self._slots[slot][index]

    def offset_of(self, array: Stored) -> int:
        """Where a view of this buffer lies, in bytes from the start of the file.

        Raises:
            ValueError: the array does not lie in this buffer.
        """
        start = np.frombuffer(self._map, dtype=np.uint8).ctypes.data
        offset = int(array.ctypes.data) - start
        if not 0 <= offset <= self.nbytes - array.nbytes:
            raise ValueError("array: not a view of this buffer")
        return offset

    def release(self, slot: int) -> None:
        """Give a slot back for use by a later snapshot."""
        self._free.append(slot)

    @property
    def has_free_slot(self) -> bool:
        """Whether the next :meth:`take` finds a slot."""
        return bool(self._free)

    def close(self) -> None:
        """Free the memory. Views that are still alive keep it until they are gone."""
        self._slots.clear()
        self._arriving.clear()
        self._free.clear()
        self._memory = memoryview(b"")
        self._finalizer()
        self.fd = -1
        with contextlib.suppress(BufferError):  # where a view is alive, the mapping goes with it
            self._map.close()

    def close_in_child(self) -> None:
        """Let go of the memory in a forked child."""
        self.close()


def _layout(arrays: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> tuple[list[int], int]:
    offsets, position = [], 0
    for shape, dtype in arrays:
        offsets.append(position)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        position += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
    return offsets, position


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE


def _check_memory(nbytes: int) -> None:
    """Refuse what does not fit: asking the kernel for it could end the trainer instead of raising an error."""
    available = available_memory()
    if available is not None and nbytes > available:
        raise MemoryError(
            f"the snapshots need {nbytes / 2**20:.0f} MiB and {available / 2**20:.0f} MiB are available; "
            f"analyse fewer layers (layers=) or use fewer slots"
        )


def available_memory() -> int | None:
    """Bytes that this process can still use, by the machine and by its control group; None where unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found, default=None)


def _allocate(nbytes: int) -> int:
    """A descriptor of ``nbytes`` that are really there: writing past a full memory file would be SIGBUS."""
    error: OSError | None = None
    for make in _places():
        try:
            return _reserved(make(), nbytes)
        except OSError as caught:
            _log.warning(
                "no %.0f MiB of %s for the snapshots (%s)", nbytes / 2**20, make.__name__.replace("_", " "), caught
            )
            error = caught
    assert error is not None
    raise error


def _places() -> Iterator[Callable[[], int]]:
    """What can make a file without a name, the best first."""
    if hasattr(os, "memfd_create"):
        yield shared_memory
    yield temporary_file


def _reserved(fd: int, nbytes: int) -> int:
    fd = forking.above_standard_streams(fd)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, nbytes)
        else:
            os.ftruncate(fd, nbytes)
    except OSError:
        os.close(fd)
        raise
    return fd


def shared_memory() -> int:
    """A file in memory alone."""
    return os.memfd_create("ww_callbacks", os.MFD_CLOEXEC)


def temporary_file() -> int:
    """A file on disk that nobody else can find."""
    with tempfile.TemporaryFile(prefix="ww_callbacks") as file:
        return os.dup(file.fileno())
