"""Weights on their way from a device, while training goes on.

At the snapshot the device copies them to itself, in the order of its own work, so that the next update cannot change
them. From there they travel over a stream of their own into memory that the device can write to directly; nobody waits
for it. That memory is used again by later transfers.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Protocol

import numpy as np

from ww_callbacks.weights.tensor import Stored


class Event(Protocol):
    """Something that a device will have done."""

    def query(self) -> bool:
        """Whether it is done."""

    def synchronize(self) -> None:
        """Wait until it is."""


class Device(Protocol):
    """What a transfer asks of a device and its framework."""

    def clone(self, weights: Any) -> Any:
        """A copy on the device, made when the device comes to it; returns at once."""

    def pinned(self, clone: Any) -> Any:
        """Memory of this machine that the device can write to, for such weights."""

    def begin(self, clone: Any, pinned: Any) -> Event:
        """Begin to copy, after what the device has to do before; returns at once."""

    def numbers(self, pinned: Any) -> Stored:
        """What arrived in that memory, without a copy."""


class Staging:
    """The transfers of one device, and the memory they use again and again.

    Args:
        device: on which the weights are.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._free: defaultdict[Any, list[Any]] = defaultdict(list)

    def send(self, weights: Any) -> Staged:
        """Begin the transfer of weights as they are now. Returns at once.

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
        """Whether the weights are in the memory of this machine."""
        return self._event.query()

    def wait(self) -> None:
        """Until they are."""
        self._event.synchronize()

    def copy_to(self, target: Stored) -> None:
        """Copy them; clone and memory are free afterwards.

        Raises:
            ValueError: the target has another shape or dtype.
        """
        source = self._device.numbers(self._pinned)
        if source.shape != target.shape or source.dtype != target.dtype:
            raise ValueError(f"target: expected {source.dtype}{source.shape}, got {target.dtype}{target.shape}")
        np.copyto(target, source)
        self._free.append(self._pinned)
        self._clone = self._pinned = None
