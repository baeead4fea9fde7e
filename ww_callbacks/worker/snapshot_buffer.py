"""Snapshots of weights in memory shared with the worker, allocated once and reused."""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.worker import forking
from ww_callbacks.worker.kept import Kept, aligned_bytes, kept_bytes, kept_in, whole_pages
from ww_callbacks.worker.memory import allocate, check_available, reserve


class Transfer(Protocol):
    """An asynchronous transfer of weights from a device to host memory."""

    def arrived(self) -> bool:
        """Whether the transfer is finished."""

    def wait(self) -> None:
        """Wait until the transfer is finished."""

    def copy_to(self, target: NDArray[Any]) -> None:
        """Copy the weights after the transfer is finished. Called once."""


Source = Callable[[], "NDArray[Any] | Transfer"]
"""Returns the current array, or starts its transfer from a device."""


class SnapshotBuffer:
    """``slots`` copies of a set of arrays, in an unnamed file that a child process can map.

    The memory is allocated and touched at construction, so later copies cost no more than copying memory. It is
    anonymous memory (``memfd``) if the system supports it and has enough, otherwise an unlinked temporary file. In
    either case nothing remains after a crash. The memory of a spare slot is allocated when all others are in use.

    Args:
        arrays: shape and dtype of each array.
        slots: number of snapshots that can be held at the same time, without the spare ones.
        capacity: bytes per slot if a snapshot contains only some of the arrays; None for all arrays.
        keep: indices of the arrays for which the workers keep copies, see :meth:`kept`.
        spare: further slots.

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
        self,
        arrays: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
        slots: int,
        capacity: int | None = None,
        keep: Sequence[int] = (),
        spare: int = 0,
    ) -> None:
        self._arrays = list(arrays)
        self._slot_bytes = whole_pages(_layout(arrays)[1] if capacity is None else capacity)
        position, offsets = self._slot_bytes * slots, {}
        for index in keep:
            offsets[index] = position
            position += kept_bytes(*arrays[index])
        self.nbytes = max(position, mmap.PAGESIZE)
        self._size = self.nbytes + spare * self._slot_bytes
        check_available(self.nbytes)
        with forking.fork_lock:
            self.fd = allocate(self.nbytes)
            os.ftruncate(self.fd, self._size)
            self._map = mmap.mmap(self.fd, self._size)
            self._finalizer = weakref.finalize(self, os.close, self.fd)
            self._finalizer.atexit = False
            forking.close_in_children(self)
        memory = np.frombuffer(self._map, dtype=np.uint8)
        memory[: self.nbytes : mmap.PAGESIZE] = 0
        self._address = _address(memory)
        self._memory = memory.data
        self._kept = {index: self._kept_at(index, offset) for index, offset in offsets.items()}
        self._starts = [slot * self._slot_bytes for slot in range(slots)]
        self._spare = spare
        self._slots: dict[int, dict[int, NDArray[Any]]] = {}
        self._arriving: dict[int, list[tuple[Transfer, NDArray[Any]]]] = {}
        self._free = list(range(slots))

    def take(self, reads: Sequence[Source], which: Sequence[int] | None = None) -> int | None:
        """Copy arrays into a free slot. Arrays on a device are complete when :meth:`arrived` returns True.

        Args:
            reads: one function per array. Its array must have the shape and dtype declared for the buffer.
            which: indices of the arrays that are read; None for all.

        Returns:
            The slot, or None if all slots are in use.

        Raises:
            ValueError: an array has an unexpected shape or dtype, or the arrays do not fit into a slot.
        """
        if not self.make_room():
            return None
        slot = self._free[-1]
        which = range(len(self._arrays)) if which is None else which
        if [*self._slots.get(slot, ())] != [*which]:
            self._slots[slot] = self._views(slot, which)
        arriving: list[tuple[Transfer, NDArray[Any]]] = []
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
        """Whether all arrays of a slot are complete. Copies those whose transfer from a device is finished.

        Args:
            slot: a slot returned by :meth:`take`.
            wait: wait for unfinished transfers.
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

    def _views(self, slot: int, which: Sequence[int]) -> dict[int, NDArray[Any]]:
        arrays = [self._arrays[index] for index in which]
        offsets, nbytes = _layout(arrays)
        if nbytes > self._slot_bytes:
            raise ValueError(f"which: these arrays need {nbytes} bytes, a slot has {self._slot_bytes}")
        start = self._starts[slot]
        return {
            index: np.ndarray(shape, dtype, self._memory, start + offset)
            for index, (shape, dtype), offset in zip(which, arrays, offsets, strict=True)
        }

    @staticmethod
    def nbytes_of(arrays: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> int:
        """Size of arrays in a slot, in bytes.

        Example:
            >>> SnapshotBuffer.nbytes_of([((2, 3), np.dtype("f4"))] * 2)
            128
        """
        return _layout(arrays)[1]

    def array(self, slot: int, index: int) -> NDArray[Any]:
        """View of the copy of array ``index`` in ``slot``.

        Raises:
            KeyError: the snapshot does not contain this array.
        """
        return self._slots[slot][index]

    def kept(self, index: int) -> Kept | None:
        """The copies of array ``index`` that the workers keep; None if it is not among ``keep``."""
        return self._kept.get(index)

    def _kept_at(self, index: int, offset: int) -> Kept:
        shape, dtype = self._arrays[index]
        return kept_in(self._memory, offset, shape, dtype)

    def offset_of(self, array: NDArray[Any]) -> int:
        """Offset of a view of this buffer in the file, in bytes.

        Raises:
            ValueError: the array is not a view of this buffer.
        """
        offset = _address(array) - self._address
        if not 0 <= offset <= self._size - array.nbytes:
            raise ValueError("array: not a view of this buffer")
        return offset

    def release(self, slot: int) -> None:
        """Release a slot, so that a later snapshot can use it."""
        self._free.append(slot)

    def make_room(self) -> bool:
        """Whether the next :meth:`take` finds a free slot; if all are in use, a spare one is allocated."""
        if not self._free and self._spare:
            try:
                check_available(self._slot_bytes)
                reserve(self.fd, self.nbytes, self._slot_bytes)
            except (MemoryError, OSError):
                self._spare = 0
                return False
            self._free.append(len(self._starts))
            self._starts.append(self.nbytes)
            self._spare -= 1
            self.nbytes += self._slot_bytes
        return bool(self._free)

    def close(self) -> None:
        """Free the memory. If views of it still exist, it is freed with the last view."""
        self._slots.clear()
        self._kept.clear()
        self._arriving.clear()
        self._free.clear()
        self._spare = 0
        self._memory = memoryview(b"")
        self._finalizer()
        self.fd = -1
        with contextlib.suppress(BufferError):  # if views exist, the mapping is freed with them
            self._map.close()

    def close_in_child(self) -> None:
        """Close the memory in a forked child."""
        self.close()


def _address(array: NDArray[Any]) -> int:
    """Address of the first element; a tenth of the time of ``array.ctypes.data``."""
    return int(array.__array_interface__["data"][0])


def _layout(arrays: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> tuple[list[int], int]:
    """Aligned offsets of arrays in a slot, and their total size in bytes."""
    offsets, position = [], 0
    for shape, dtype in arrays:
        offsets.append(position)
        position += aligned_bytes(shape, dtype)
    return offsets, position
