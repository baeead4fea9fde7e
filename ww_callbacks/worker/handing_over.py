"""Hands tasks over to an executor of the user's, such as a cluster or a process pool, in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.worker.pool import Job, Pool
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.submits import Submits, as_executor, memory_of, sending_weights, task_arguments
from ww_callbacks.worker.task import run_task

CANCEL_SECONDS = 1.0
"""How long a shutdown waits until the executor has cancelled its tasks."""


class HandingOver(Pool):
    """Submits tasks to an executor of the user's, and never shuts it down.

    Submitting may take long: the weights are pickled and sent, and a cluster may not answer. A thread of this object
    does it, so training never waits for it. No queue grows without a limit: the weights of a task occupy a slot.

    Args:
        executor: receives a module-level function, a dictionary of plain values and a plain array.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> import numpy as np
        >>> from ww_callbacks.analysis import Settings
        >>> from ww_callbacks.worker.task import make_task
        >>> task = make_task(LayerSpec("fc", "Linear", (80, 60), "float64", ((), (0,), (1,))), Settings(), step=5)
        >>> with ThreadPoolExecutor() as pool:
        ...     handing_over = HandingOver(pool)
        ...     handing_over.submit(run_task, task, np.eye(80, 60)).result()["report"][:2]
        ['fc', 'Linear']
    """

    def __init__(self, executor: Submits) -> None:
        self._receiver = _Receiver(executor)
        super().__init__([self._receiver.take])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel the unfinished tasks. The executor itself keeps running.

        Args:
            wait: whether to wait until the executor has cancelled them, at most ``CANCEL_SECONDS``.
            cancel_futures: ignored; unfinished tasks are always cancelled.
        """
        super().shutdown(wait=False)
        cancelling = threading.Thread(target=self._receiver.cancel, name="ww-cancel", daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread can be started
            cancelling.start()
            if wait:
                cancelling.join(CANCEL_SECONDS)


class _Receiver:
    """The executor of the user's, and its unfinished tasks."""

    def __init__(self, executor: Submits) -> None:
        self._executor = executor
        self._submit: Callable[[Job], Future[Message]] | None = None
        self._lock = threading.Lock()
        self._unfinished: set[Future[Message]] = set()
        self._is_closed = False

    def take(self, job: Job) -> None:
        """Submit a task. Its future gets the answer when the executor has it, or the error of the executor."""
        try:
            if self._submit is None:
                self._submit = partial(_submit, as_executor(self._executor), task_arguments(self._executor))
            future = self._submit(job)
        except Exception as error:
            job.future.set_exception(error)
            return
        with self._lock:
            self._unfinished.add(future)
            is_closed = self._is_closed
        future.add_done_callback(partial(self._pass_on, job.future))
        if is_closed:
            future.cancel()

    def cancel(self) -> None:
        """Cancel the unfinished tasks, and those that are submitted later."""
        with self._lock:
            self._is_closed = True
            unfinished = list(self._unfinished)
        for future in unfinished:
            with contextlib.suppress(Exception):
                future.cancel()

    def _pass_on(self, future: Future[Message], done: Future[Message]) -> None:
        with self._lock:
            self._unfinished.discard(done)
        error = CancelledError() if done.cancelled() else done.exception()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())


def _submit(executor: Any, arguments_of: Callable[[int], dict[str, Any]], job: Job) -> Future[Message]:
    arguments = (job.task, job.stored) if job.kept is None else (job.task, job.stored, job.kept)
    with sending_weights():
        future: Future[Message] = executor.submit(
            run_task, *arguments, **arguments_of(memory_of(LayerSpec(**job.task["spec"])))
        )
    return future
