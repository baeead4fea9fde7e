"""Worker processes, as a ``concurrent.futures.Executor``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.worker import lifeline
from ww_callbacks.worker.pool import Pool
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.restarts import Faults
from ww_callbacks.worker.worker_process import Child, WorkerError

_NO_WEIGHTS = np.empty(0)


class SharedMemory(Protocol):
    """Memory that the worker maps: where the weights of a task lie."""

    fd: int

    def offset_of(self, array: NDArray[Any]) -> int:
        """Where ``array`` lies, in bytes from the start."""


class WorkerProcess(Pool):
    """Runs ``run_task`` in processes of its own, each one task after the other.

    A process is started with the first task, with one BLAS thread and low priority, and ends with this process
    however that ends. A task whose worker dies, hangs or cannot be started is answered with the reason; the worker is
    started again for the next one after a pause that grows. A layer in which it died twice is left out, and after
    ``MAX_DEATHS`` in a row it is not started any more.

    Args:
        memory: where the weights lie.
        workers: number of processes.
        layer_timeout: seconds of CPU time that one task may take; of the clock where the process does not compute.
        lifeline_method: how a worker notices the end of this process.
    """

    def __init__(
        self,
        memory: SharedMemory,
        *,
        workers: int = 1,
        layer_timeout: float = 600.0,
        lifeline_method: lifeline.Method | None = None,
    ) -> None:
        self._memory, self._faults = memory, Faults()
        method = lifeline_method or lifeline.default_method()
        self._children = [Child(memory.fd, layer_timeout, method, self._faults) for _ in range(workers)]
        super().__init__([partial(_run, child) for child in self._children], partial(_close, self._children))

    def submit(  # type: ignore[override]
        self, fn: Callable[..., Message], task: Message, stored: NDArray[Any]
    ) -> Future[Message]:
        """Queue one layer; returns at once.

        Args:
            fn: ``run_task``; this executor runs nothing else.
            task: made by ``make_task``.
            stored: the weights, a view of the shared memory; they must not change before the result is in.

        Raises:
            TypeError: ``fn`` is another function.
            ValueError: ``stored`` does not lie in the shared memory.
            RuntimeError: the executor was shut down.
        """
        return super().submit(fn, task | {"offset": self._memory.offset_of(stored)}, stored)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that run."""
        return tuple(pid for child in self._children if (pid := child.pid) is not None)

    @property
    def broken(self) -> str:
        """Why the worker is not started any more; empty while it can be."""
        return self._faults.broken


class FigureWorker:
    """Draws figures in a separate process, one set after the other.

    The process starts with the first task, and is started again and ends as those of :class:`WorkerProcess` do.

    Args:
        timeout: seconds of CPU time that one task may take; of the clock where the process does not compute.
    """

    def __init__(self, timeout: float) -> None:
        self._child = Child(None, timeout, lifeline.default_method(), Faults())
        self._pool = Pool([partial(_draw, self._child)], self._child.close)

    def draw(self, values: Message) -> Future[Message]:
        """Queue a drawing task; returns at once.

        Args:
            values: of :func:`ww_callbacks.outputs.panels.picture_task`.

        Raises:
            RuntimeError: the worker was shut down.
        """
        return self._pool.enqueue({"drawing": values}, _NO_WEIGHTS)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process id of the worker; empty where it does not run."""
        return () if self._child.pid is None else (self._child.pid,)

    def shutdown(self) -> None:
        """End at once; what is not drawn is cancelled."""
        self._pool.shutdown()


def _run(child: Child, task: Message, stored: NDArray[Any]) -> Message:
    return _ask(child, task, task["spec"]["name"])


def _draw(child: Child, task: Message, _: NDArray[Any]) -> Message:
    return _ask(child, task, "the figures")


def _ask(child: Child, task: Message, name: str) -> Message:
    try:
        return child.ask(task, name)
    except WorkerError as error:
        return {"error": str(error)}
    except Exception as error:  # this thread serves all tasks: it must not end with one of them
        return {"error": f"{type(error).__name__}: {error}"}


def _close(children: Sequence[Child]) -> None:
    for child in children:
        child.close()
