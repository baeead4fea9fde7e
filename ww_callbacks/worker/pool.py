"""Executors that run tasks in threads, as ``concurrent.futures.Executor``."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ww_callbacks.worker.kept import Kept
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.task import run_task


@dataclass(slots=True)
class Job:
    """One task.

    Attributes:
        future: gets its answer.
        task: in the form expected by the runner.
        stored: the weights; None if the task says where they are.
        kept: weights of earlier analyses.
    """

    future: Future[Message]
    task: Message
    stored: NDArray[Any] | None = None
    kept: Kept | None = None


Runner = Callable[[Job], Message | None]
"""Runs a task and returns its answer, or None if it sets the answer on the future later; never raises."""

_Jobs = queue.SimpleQueue[Job | None]


class Pool(Executor):
    """One daemon thread per runner, all reading from one queue.

    Unlike the threads of a ``ThreadPoolExecutor``, these threads do not delay the exit of the interpreter.

    Args:
        runners: functions that run the tasks. They must not hold a reference to this object.
        release: called at shutdown, from any thread.
    """

    def __init__(self, runners: Sequence[Runner], release: Callable[[], None] = lambda: None) -> None:
        self._jobs: _Jobs = queue.SimpleQueue()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=_run_jobs, args=(self._jobs, run, self._closing), name="ww-worker", daemon=True)
            for run in runners
        ]
        self._stop = weakref.finalize(self, _stop, self._jobs, self._closing, release, len(runners), os.getpid())

    @property
    def broken(self) -> str:
        """Why tasks are not run any more; empty if they are."""
        return ""

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the running workers."""
        return ()

    def submit(  # type: ignore[override]
        self, fn: Callable[..., Message], task: Message, stored: NDArray[Any], kept: Kept | None = None
    ) -> Future[Message]:
        """Queue one layer without blocking.

        Args:
            fn: must be ``run_task``.
            task: task from ``make_task``.
            stored: the weights. They must not change until the future is done.
            kept: weights of earlier analyses.

        Raises:
            TypeError: ``fn`` is another function.
            RuntimeError: the executor was shut down.
        """
        if fn is not run_task:
            raise TypeError(f"fn: this executor runs run_task only, got {fn!r}")
        return self.enqueue(task, stored, kept)

    def enqueue(self, task: Message, stored: NDArray[Any] | None = None, kept: Kept | None = None) -> Future[Message]:
        """Queue one task for the next free runner without blocking.

        Args:
            task: the task, in the form expected by the runners.
            stored: the weights of the task; None if the task says where they are.
            kept: weights of earlier analyses.

        Raises:
            RuntimeError: the executor was shut down.
        """
        if not self._stop.alive:
            raise RuntimeError("the worker was shut down")
        for thread in self._threads:
            if thread.ident is None:
                thread.start()
        job = Job(Future(), task, stored, kept)
        self._jobs.put(job)
        return job.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop immediately and cancel unfinished tasks.

        Args:
            wait: whether to wait for the threads, at most 5 seconds each.
            cancel_futures: ignored; unfinished tasks are always cancelled.
        """
        self._stop()
        for thread in self._threads if wait else ():
            if thread.ident is not None:
                thread.join(timeout=5.0)


class ThreadPool(Pool):
    """Analyses layers in threads of this process.

    The eigensolvers release the GIL, so other threads keep running. The analysis of a layer cannot be interrupted: at
    shutdown its thread continues, until the process exits at the latest.

    Args:
        workers: number of threads.
    """

    def __init__(self, workers: int = 1) -> None:
        super().__init__([_run_here] * workers)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks. Never waits."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)


class Inline(Pool):
    """Analyses each layer during ``submit``. Training waits, and the results known at a step are deterministic."""

    def __init__(self) -> None:
        super().__init__([])

    def submit(  # type: ignore[override]
        self, fn: Callable[..., Message], task: Message, stored: NDArray[Any], kept: Kept | None = None
    ) -> Future[Message]:
        """Analyse one layer immediately."""
        future: Future[Message] = Future()
        future.set_result(fn(task, stored, kept))
        return future


def _stop(jobs: _Jobs, closing: threading.Event, release: Callable[[], None], threads: int, owner: int) -> None:
    if os.getpid() == owner:
        closing.set()
        release()
        for _ in range(threads):
            jobs.put(None)


def _run_here(job: Job) -> Message:
    assert job.stored is not None
    return run_task(job.task, job.stored, job.kept)


def _run_jobs(jobs: _Jobs, run: Runner, closing: threading.Event) -> None:
    while (job := jobs.get()) is not None:
        if closing.is_set():
            job.future.cancel()
        if job.future.set_running_or_notify_cancel() and (answer := run(job)) is not None:
            job.future.set_result(answer)
        del job  # release the weights as soon as the task is done
