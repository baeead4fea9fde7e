"""The worker's loop: a task in, the report of one layer out."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.worker.protocol import Message, decode, encode
from ww_callbacks.worker.task import run_task


def serve(incoming: int, outgoing: int, memory: int) -> None:
    """Answer tasks until the other side closes.

    Args:
        incoming: descriptor to read tasks from.
        outgoing: descriptor to write answers to.
        memory: descriptor of the memory in which the weights lie; it is mapped read-only.
    """
    mapped = mmap.mmap(memory, 0, prot=mmap.PROT_READ)
    write_all(outgoing, encode({"hello": os.getpid()}))
    while True:
        try:
            task = decode(lambda count: read_exactly(incoming, count))
        except EOFError:
            return
        write_all(outgoing, encode(_answer(task, mapped)))


def read_exactly(fd: int, count: int) -> bytes:
    """Read ``count`` bytes.

    Raises:
        EOFError: the other side closed before.
    """
    parts = bytearray()
    while len(parts) < count:
        part = os.read(fd, count - len(parts))
        if not part:
            raise EOFError("the other side closed the pipe")
        parts += part
    return bytes(parts)


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _answer(task: Message, mapped: mmap.mmap) -> Message:
    number = {"task": task["task"]}
    try:
        stored = np.empty(0) if "draw" in task else _stored(LayerSpec(**task["spec"]), mapped, task["offset"])
    except Exception as error:  # the trainer is told, and goes on
        return number | {"error": f"{type(error).__name__}: {error}"}
    return number | run_task(task, stored)


def _stored(spec: LayerSpec, mapped: mmap.mmap, offset: int) -> NDArray[Any]:
    array: NDArray[Any] = np.ndarray(spec.shape, spec.storage_dtype, mapped, offset)
    return array
