"""Asynchronous copies of torch weights from a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from ww_callbacks.weights.torch.staging import Event, Staged, Staging

Read = Callable[[torch.Tensor], NDArray[np.generic]]


class CudaDevice:
    """A CUDA device for :class:`ww_callbacks.weights.torch.staging.Staging`.

    Args:
        device: with its index.
        read: returns the numbers of a tensor in host memory.
    """

    def __init__(self, device: torch.device, read: Read) -> None:
        self._device, self._read = device, read
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def clone(self, weights: torch.Tensor) -> torch.Tensor:
        """A copy on the device, in the stream of training."""
        return weights.clone(memory_format=torch.contiguous_format)

    def pinned(self, clone: torch.Tensor) -> torch.Tensor:
        """Pinned host memory."""
        return torch.empty(clone.shape, dtype=clone.dtype, pin_memory=True)

    def begin(self, clone: torch.Tensor, pinned: torch.Tensor) -> Event:
        """Start to copy on the transfer stream, after the stream of training has made the clone."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            pinned.copy_(clone, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return event

    def numbers(self, pinned: torch.Tensor) -> NDArray[np.generic]:
        """The numbers, without a copy."""
        return self._read(pinned)


def send(tensor: torch.Tensor, read: Read) -> Staged | NDArray[np.generic]:
    """Start to copy a tensor to host memory, or copy it now if the device has no memory for a clone.

    Args:
        tensor: on a CUDA device.
        read: returns the numbers of a tensor.
    """
    try:
        return _staging(tensor.device, read).send(tensor.detach())
    except torch.cuda.OutOfMemoryError:
        return read(tensor)


@cache
def _staging(device: torch.device, read: Read) -> Staging:
    return Staging(CudaDevice(device, read))
