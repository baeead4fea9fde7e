"""Pools of worker processes: for the analysis, as a ``concurrent.futures.Executor``, and for drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

from numpy.typing import NDArray

from ww_callbacks.worker import lifeline
from ww_callbacks.worker.kept import Kept
from ww_callbacks.worker.pool import Job, Pool
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.restarts import RestartPolicy
from ww_callbacks.worker.spool import discard_draft
from ww_callbacks.worker.worker_process import WorkerError, WorkerProcess

_START: Message = {}
"""A task that only starts the process."""


class SharedMemory(Protocol):
    """Memory that holds the weights of the tasks and is mapped by the worker."""

    fd: int

    def offset_of(self, array: NDArray[Any]) -> int:
        """Offset of ``array`` in bytes."""


class ProcessPool(Pool):
    """Runs ``run_task`` in separate processes. Each process runs one task after the other.

    A process is started with the first task, or by :meth:`start`, with one BLAS thread. It exits when this process
    exits, for any reason. If the worker crashes, hangs or cannot be started, the result of the task is the error, and
    the worker is restarted for the next task after an increasing delay. Tasks submitted together are sent in one
    message; if that fails, each is sent again alone. A layer on which the worker crashed twice is skipped. After
    ``MAX_CRASHES`` crashes in a row the worker is not restarted.

    Args:
        memory: memory that holds the weights.
        workers: number of processes.
        layer_timeout: limit per task: seconds of CPU time, or wall-clock seconds if the process is idle.
        lifeline_method: how a worker notices that this process has exited.
        low_priority: whether workers get a lower priority than this process.
    """

    def __init__(
        self,
        memory: SharedMemory,
        *,
        workers: int = 1,
        layer_timeout: float = 600.0,
        lifeline_method: lifeline.Method | None = None,
        low_priority: bool = True,
    ) -> None:
        self._memory, self._restarts = memory, RestartPolicy()
        method = lifeline_method or lifeline.default_method()
        self._processes = [
            WorkerProcess(memory.fd, layer_timeout, method, self._restarts, low_priority=low_priority)
            for _ in range(workers)
        ]
        runners = [partial(_analyze, process, self._restarts) for process in self._processes]
        super().__init__(runners, partial(_close, self._processes))

    def start(self) -> None:
        """Start the processes without blocking, so that they are ready for the first tasks.

        Raises:
            RuntimeError: the executor was shut down.
        """
        for _ in self._processes:
            self.enqueue(_START)

    def submit(  # type: ignore[override]
        self, fn: Callable[..., Message], task: Message, stored: NDArray[Any], kept: Kept | None = None
    ) -> Future[Message]:
        """Queue one layer without blocking.

        Args:
            fn: must be ``run_task``.
            task: task from ``make_task``.
            stored: the weights, a view of the shared memory. They must not change until the future is done.
            kept: weights of earlier analyses, in the shared memory.

        Raises:
            TypeError: ``fn`` is another function.
            ValueError: ``stored`` is not in the shared memory.
            RuntimeError: the executor was shut down.
        """
        return super().submit(fn, self._placed(task, stored, kept), stored)

    def submit_together(self, tasks: Sequence[tuple[Message, NDArray[Any], Kept | None]]) -> Future[Message]:
        """Queue several layers that are sent to a worker in one message, without blocking.

        A thread that wakes up for each of many small layers takes more time from training than their results do.

        Args:
            tasks: for each layer the arguments of :meth:`submit`.

        Returns:
            Future of {"answers": [...]}, one answer per task in the same order.

        Raises:
            ValueError: the weights of a task are not in the shared memory.
            RuntimeError: the executor was shut down.
        """
        return self.enqueue({"tasks": [self._placed(*each) for each in tasks]})

    def spool(self, task: Message) -> Future[Message]:
        """Queue the writing of a snapshot without blocking.

        Args:
            task: of :func:`ww_callbacks.worker.spool.make_spool_task`.

        Raises:
            RuntimeError: the executor was shut down.
        """
        return self.enqueue(task)

    def _placed(self, task: Message, stored: NDArray[Any], kept: Kept | None) -> Message:
        """The task with the places of its weights in the shared memory."""
        placed = task | {"offset": self._memory.offset_of(stored)}
        if kept is not None:
            placed["kept"] = self._memory.offset_of(kept.steps)
        return placed

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the running workers."""
        return tuple(pid for process in self._processes if (pid := process.pid) is not None)

    @property
    def broken(self) -> str:
        """Why the worker is not restarted any more; empty if it is."""
        return self._restarts.broken


class FigureWorker:
    """Draws figures in a separate process, one task at a time.

    The process starts with the first task. It is restarted and exits like those of :class:`ProcessPool`.

    Args:
        timeout: limit per task: seconds of CPU time, or wall-clock seconds if the process is idle.
    """

    def __init__(self, timeout: float) -> None:
        self._process = WorkerProcess(None, timeout, lifeline.default_method(), RestartPolicy())
        self._pool = Pool([partial(_draw, self._process)], self._process.close)

    def draw(self, values: Message) -> Future[Message]:
        """Queue a drawing task without blocking.

        Args:
            values: result of :func:`ww_callbacks.outputs.panels.picture_task`.

        Raises:
            RuntimeError: the worker was shut down.
        """
        return self._pool.enqueue({"drawing": values})

    @property
    def pids(self) -> tuple[int, ...]:
        """Process id of the worker; empty if it is not running."""
        pid = self._process.pid
        return () if pid is None else (pid,)

    def shutdown(self) -> None:
        """Stop immediately and cancel unfinished tasks."""
        self._pool.shutdown()


def _analyze(process: WorkerProcess, restarts: RestartPolicy, job: Job) -> Message:
    """The answer of a task, or those of several; one by one if one of them may crash the worker.

    A worker that ends while it writes a snapshot leaves nothing in the folder.
    """
    if job.task is _START:
        return _answer(process.start)
    if "spool" in job.task:
        answer = _ask(process, job.task, "")
        if "error" in answer:
            discard_draft(job.task)
        return answer
    if "tasks" not in job.task:
        return _ask(process, job.task, job.task["spec"]["name"])
    tasks = job.task["tasks"]
    if not any(restarts.has_crashed(task["spec"]["name"]) for task in tasks):
        answer = _ask(process, job.task, "")
        answers = answer.get("answers")
        if isinstance(answers, list) and len(answers) == len(tasks) and all(isinstance(each, dict) for each in answers):
            return answer
    return {"answers": [_ask(process, task, task["spec"]["name"]) for task in tasks]}


def _draw(process: WorkerProcess, job: Job) -> Message:
    return _ask(process, job.task, "the figures")


def _ask(process: WorkerProcess, task: Message, name: str) -> Message:
    return _answer(lambda: process.ask(task, name))


def _answer(action: Callable[[], Message | None]) -> Message:
    """The answer that an action gives; an error becomes an answer with its description."""
    try:
        return action() or {}
    except WorkerError as error:
        return {"error": str(error)}
    except Exception as error:  # an error of one task must not end the thread that runs all tasks
        return {"error": f"{type(error).__name__}: {error}"}


def _close(processes: Sequence[WorkerProcess]) -> None:
    for process in processes:
        process.close()
