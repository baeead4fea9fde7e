"""Weights kept from one analysis of a layer to the next, in memory that all workers share."""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis.spec import Snapshot

ALIGNMENT = 64
"""Arrays in shared memory start at multiples of this many bytes."""

_NONE = -1
_HEADER_BYTES = ALIGNMENT
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Before:
    """Weights kept from earlier snapshots.

    Attributes:
        start: the first snapshot.
        previous: the previous snapshot; None if there is none.
    """

    start: Snapshot | None = None
    previous: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """The weights of one layer at its first and at its latest analysis.

    The worker that analyses the layer writes them, under a lock. A copy is marked as missing while it is written, so
    that a crash leaves no half copy.

    Attributes:
        steps: steps of the first and the latest copy, -1 if there is none.
        digests: their digests, shape (2, 16).
        first: the first copy.
        latest: the latest copy.
        exclusive: creates a context in which no other worker has access.
    """

    steps: NDArray[np.int64]
    digests: NDArray[np.uint8]
    first: NDArray[Any]
    latest: NDArray[Any]
    exclusive: Callable[[], AbstractContextManager[object]]

    def exchange(self, now: Snapshot) -> Before:
        """Keep these weights, and return those kept so far.

        If the weights of a later snapshot have been kept already, they stay, and the previous ones are unknown.

        Args:
            now: this snapshot, with a hexadecimal digest of 128 bits.
        """
        with self.exclusive():
            if self.steps[0] == _NONE:
                self._write(0, self.first, now)
            start = self._copy(0, self.first)
            if self.steps[1] >= now.step:
                return Before(start)
            previous = None if self.steps[1] == _NONE else self._copy(1, self.latest.copy())
            self._write(1, self.latest, now)
        return Before(start, previous)

    def _copy(self, index: int, stored: NDArray[Any]) -> Snapshot:
        return Snapshot(int(self.steps[index]), stored, self.digests[index].tobytes().hex())

    def _write(self, index: int, target: NDArray[Any], now: Snapshot) -> None:
        self.steps[index] = _NONE
        np.copyto(target, now.stored)
        self.digests[index] = np.frombuffer(bytes.fromhex(now.digest), np.uint8)
        self.steps[index] = now.step


def kept_in(memory: memoryview, offset: int, shape: Sequence[int], dtype: np.dtype[Any]) -> Kept:
    """Empty copies of a layer in the memory of this process, for its threads.

    Args:
        memory: the whole memory, writable.
        offset: position of the copies, in bytes.
        shape: shape of the weights.
        dtype: dtype of the weights.

    Example:
        >>> import numpy as np
        >>> nbytes = kept_bytes((3,), np.dtype("f8"))
        >>> kept = kept_in(memoryview(bytearray(nbytes)), 0, (3,), np.dtype("f8"))
        >>> kept.exchange(Snapshot(0, np.ones(3), "00" * 16)).previous
        >>> kept.exchange(Snapshot(10, np.zeros(3), "11" * 16)).previous.stored
        array([1., 1., 1.])
    """
    kept = _views(memory, offset, shape, dtype, lambda: _lock)
    kept.steps[:] = _NONE
    return kept


def kept_of(fd: int, offset: int, shape: Sequence[int], dtype: np.dtype[Any]) -> Kept:
    """The copies of a layer in the memory of another process. Only they are mapped as writable.

    A lock on this part of the file excludes other processes. The system releases it if the process exits.

    Args:
        fd: descriptor of the memory.
        offset: position of the copies, a multiple of the page size.
        shape: shape of the weights.
        dtype: dtype of the weights.
    """
    mapped = mmap.mmap(fd, kept_bytes(shape, dtype), offset=offset)
    return _views(mapped, 0, shape, dtype, partial(_file_lock, fd, offset))


def kept_bytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Bytes of the copies of a layer, in whole pages.

    Args:
        shape: shape of the weights.
        dtype: dtype of the weights.

    Example:
        >>> kept_bytes((1000, 1000), np.dtype("f4")) - 2 * 4 * 1000**2 < 10_000
        True
    """
    return whole_pages(_HEADER_BYTES + 2 * aligned_bytes(shape, dtype))


def aligned_bytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Bytes of an array in shared memory, rounded up to the alignment.

    Example:
        >>> aligned_bytes((3, 5), np.dtype("f4"))
        64
    """
    return -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def whole_pages(nbytes: int) -> int:
    """Bytes, rounded up to whole pages of memory."""
    return -(-nbytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


def _views(
    memory: memoryview | mmap.mmap,
    offset: int,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    exclusive: Callable[[], AbstractContextManager[object]],
) -> Kept:
    start = offset + _HEADER_BYTES
    first = np.ndarray(shape, dtype, memory, start)
    latest = np.ndarray(shape, dtype, memory, start + aligned_bytes(shape, dtype))
    steps = np.ndarray((2,), np.int64, memory, offset)
    digests = np.ndarray((2, 16), np.uint8, memory, offset + steps.nbytes)
    return Kept(steps, digests, first, latest, exclusive)


@contextmanager
def _file_lock(fd: int, offset: int) -> Iterator[None]:
    import fcntl  # does not exist on Windows

    fcntl.lockf(fd, fcntl.LOCK_EX, _HEADER_BYTES, offset)
    try:
        yield
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN, _HEADER_BYTES, offset)
