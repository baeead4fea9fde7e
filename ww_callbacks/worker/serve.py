"""The loop of a worker process: a task in, an answer out."""

from __future__ import annotations

import os

from ww_callbacks.worker.protocol import decode, encode
from ww_callbacks.worker.runners import Runner


def serve(incoming: int, outgoing: int, run: Runner) -> None:
    """Answer tasks until the other side closes.

    Args:
        incoming: descriptor to read tasks from.
        outgoing: descriptor to write answers to.
        run: what answers a task.
    """
    write_all(outgoing, encode({"hello": os.getpid()}))
    while True:
        try:
            task = decode(lambda count: read_exactly(incoming, count))
        except EOFError:
            return
        write_all(outgoing, encode(run(task) | {"task": task["task"]}))


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
