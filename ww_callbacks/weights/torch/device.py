"""Weights of torch on a CUDA device: their way into a snapshot without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from ww_callbacks.weights.torch.staging import Event, Staged, Staging

Read = Callable[[torch.Tensor], NDArray[np.generic]]


class CudaDevice:
    """What :class:`ww_callbacks.weights.torch.staging.Staging` asks of a CUDA device.

    Args:
        device: with its index.
        read: gives the numbers of a tensor in the memory of this machine.
    """

    def __init__(self, device: torch.device, read: Read) -> None:
        self._device, self._read = device, read
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def clone(self, weights: torch.Tensor) -> torch.Tensor:
        """A copy, in the order of the work of training."""
        return weights.clone(memory_format=torch.contiguous_format)

    def pinned(self, clone: torch.Tensor) -> torch.Tensor:
        """Memory that the device writes to by itself."""
        return torch.empty(clone.shape, dtype=clone.dtype, pin_memory=True)

    def begin(self, clone: torch.Tensor, pinned: torch.Tensor) -> Event:
        """Copy on the stream of the transfers, once training's stream has made the clone."""
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
    """Begin to copy a tensor to this machine; where the device has no memory for a clone, copy it now.

    Args:
        tensor: on a CUDA device.
        read: gives the numbers of a tensor.
    """
    try:
        return _staging(tensor.device, read).send(tensor.detach())
    except torch.cuda.OutOfMemoryError:
        return read(tensor)


@cache
def _staging(device: torch.device, read: Read) -> Staging:
    return Staging(CudaDevice(device, read))
