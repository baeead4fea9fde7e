"""Asynchronous copies of weights from a device during training.

At a snapshot, the device first copies the weights to its own memory, on its current stream, so that the next update
cannot change them. A separate stream then copies them to pinned host memory without blocking. Later transfers reuse
the pinned memory.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Protocol

import numpy as np

from ww_callbacks.weights.tensor import Stored


class Event(Protocol):
    """An event on a device."""

    def query(self) -> bool:
        """Whether it has happened."""

    def synchronize(self) -> None:
        """Wait until it has happened."""


class Device(Protocol):
    """What a transfer needs from a device and its framework."""

    def clone(self, weights: Any) -> Any:
        """A copy on the device, in stream order; returns immediately."""

    def pinned(self, clone: Any) -> Any:
        """Pinned host memory for such weights."""

    def begin(self, clone: Any, pinned: Any) -> Event:
        """Start to copy, after the pending work of the device; returns immediately."""

    def numbers(self, pinned: Any) -> Stored:
        """The content of the pinned memory, without a copy."""


class Staging:
    """The transfers of one device, and the pinned memory that they reuse.

    Args:
        device: the device of the weights.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._free: defaultdict[Any, list[Any]] = defaultdict(list)

    def send(self, weights: Any) -> Staged:
        """Start to transfer the current weights. Returns immediately.

        Args:
            weights: with ``shape`` and ``dtype``.
        """
        clone = self._device.clone(weights)
        free = self._free[tuple(weights.shape), weights.dtype]
        pinned = free.pop() if free else self._device.pinned(clone)
        return Staged(self._device, clone, pinned, self._device.begin(clone, pinned), free)


class Staged:
    """One transfer; see :class:`ww_callbacks.worker.snapshot_buffer.Transfer`."""

    def __init__(self, device: Device, clone: Any, pinned: Any, event: Event, free: list[Any]) -> None:
        self._device, self._clone, self._pinned, self._event, self._free = device, clone, pinned, event, free

    def arrived(self) -> bool:
        """Whether the weights are in host memory."""
        return self._event.query()

    def wait(self) -> None:
        """Wait until the weights are in host memory."""
        self._event.synchronize()

    def copy_to(self, target: Stored) -> None:
        """Copy the weights, then release the clone and the pinned memory.

        Raises:
            ValueError: the target has another shape or dtype.
        """
        source = self._device.numbers(self._pinned)
        if source.shape != target.shape or source.dtype != target.dtype:
            raise ValueError(f"target: expected {source.dtype}{source.shape}, got {target.dtype}{target.shape}")
        np.copyto(target, source)
        self._free.append(self._pinned)
        self._clone = self._pinned = None
