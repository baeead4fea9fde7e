"""The main loop of a worker process."""

from __future__ import annotations

import os

from ww_callbacks.worker.protocol import decode, encode, recv_exact, send_all
from ww_callbacks.worker.runners import TaskRunner


def serve(incoming: int, outgoing: int, run: TaskRunner) -> None:
    """Answer tasks until the trainer closes the pipe.

    Args:
        incoming: descriptor from which tasks are read.
        outgoing: descriptor to which answers are written.
        run: function that runs a task.
    """
    send_all(outgoing, encode({"hello": os.getpid()}))
    while True:
        try:
            task = decode(lambda count: recv_exact(incoming, count))
        except EOFError:
            return
        send_all(outgoing, encode(run(task) | {"task": task["task"]}))
