"""Threads that hand tasks to something that does them, as a ``concurrent.futures.Executor``."""

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

from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.task import run_task

Runner = Callable[[Message, NDArray[Any]], Message]
"""Does one task; never raises."""


@dataclass(slots=True)
class _Job:
    future: Future[Message]
    task: Message
    stored: NDArray[Any]


_Jobs = queue.SimpleQueue[_Job | None]


class Pool(Executor):
    """One daemon thread per runner, all of them fed from one queue.

    The interpreter does not wait for these threads at its end, unlike for those of a ``ThreadPoolExecutor``.

    Args:
        runners: what does the tasks, one at a time each. None of them may hold this object.
        release: called at the end, from any thread.
    """

    def __init__(self, runners: Sequence[Runner], release: Callable[[], None] = lambda: None) -> None:
        self._jobs: _Jobs = queue.SimpleQueue()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=_pump, args=(self._jobs, run, self._closing), name="ww-worker", daemon=True)
            for run in runners
        ]
        self._stop = weakref.finalize(self, _stop, self._jobs, self._closing, release, len(runners), os.getpid())

    @property
    def broken(self) -> str:
        """Why no task is done any more; empty while they are."""
        return ""

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes of its own that run now."""
        return ()

    def submit(  # type: ignore[override]
        self, fn: Callable[..., Message], task: Message, stored: NDArray[Any]
    ) -> Future[Message]:
        """Queue one layer; returns at once.

        Args:
            fn: ``run_task``; this executor runs nothing else.
            task: made by ``make_task``.
            stored: the weights; they must not change before the result is in.

        Raises:
            TypeError: ``fn`` is another function.
            RuntimeError: the executor was shut down.
        """
        if fn is not run_task:
            raise TypeError(f"fn: this executor runs run_task only, got {fn!r}")
        return self.enqueue(task, stored)

    def enqueue(self, task: Message, stored: NDArray[Any]) -> Future[Message]:
        """Queue one task for the next free runner; returns at once.

        Args:
            task: what the runners take.
            stored: the weights it is about.

        Raises:
            RuntimeError: the executor was shut down.
        """
        if not self._stop.alive:
            raise RuntimeError("the worker was shut down")
        for thread in self._threads:
            if thread.ident is None:
                thread.start()
        job = _Job(Future(), task, stored)
        self._jobs.put(job)
        return job.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End at once; what is not finished is cancelled.

        Args:
            wait: whether to wait for the threads, at most some seconds.
            cancel_futures: as for any executor; unfinished tasks are always cancelled here.
        """
        self._stop()
        for thread in self._threads if wait else ():
            if thread.ident is not None:
                thread.join(timeout=5.0)


class ThreadPool(Pool):
    """Analyses layers in threads of this process.

    The eigensolvers release the interpreter's lock, so that other threads go on meanwhile. A layer at work cannot be
    stopped: shutting down leaves it to its thread, which ends with the process.

    Args:
        workers: number of threads.
    """

    def __init__(self, workers: int = 1) -> None:
        super().__init__([run_task] * workers)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; never waits."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)


class Inline(Pool):
    """Analyses a layer where it is submitted: training waits, and what is known depends on the step alone."""

    def __init__(self) -> None:
        super().__init__([])

    def submit(  # type: ignore[override]
        self, fn: Callable[..., Message], task: Message, stored: NDArray[Any]
    ) -> Future[Message]:
        """Analyse one layer now."""
        future: Future[Message] = Future()
        future.set_result(fn(task, stored))
        return future


def _stop(jobs: _Jobs, closing: threading.Event, release: Callable[[], None], threads: int, owner: int) -> None:
    if os.getpid() == owner:
        closing.set()
        release()
        for _ in range(threads):
            jobs.put(None)


def _pump(jobs: _Jobs, run: Runner, closing: threading.Event) -> None:
    while (job := jobs.get()) is not None:
        if closing.is_set():
            job.future.cancel()
        elif job.future.set_running_or_notify_cancel():
            job.future.set_result(run(job.task, job.stored))
        del job  # the weights are free as soon as the task is done
