"""Runs tasks for the layers of a checkpoint on an executor, whose workers read them from a shared file system."""

from __future__ import annotations

import queue
import sys
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.checks import is_dask_client
from ww_callbacks.models.run import Analysed
from ww_callbacks.progress import Bar
from ww_callbacks.weights.files.errors import WeightsFileError
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.submits import Submits, TaskFuture, task_arguments
from ww_callbacks.worker.task import read_answer, run_task

IN_FLIGHT = 1000
"""Most tasks that are submitted at a time, so that thousands of layers do not keep a client from its scheduler."""

CHECK_INTERVAL = 5.0
"""Seconds between two looks whether the client of a Dask cluster is closed."""


class ExecutorEndedError(OSError):
    """An executor takes no more tasks: it was shut down, or the scheduler of a Dask cluster did not come back."""


class Job(NamedTuple):
    """What is done with a layer.

    Attributes:
        spec: description of the weights.
        read: reads them.
        task: see :func:`ww_callbacks.worker.task.run_task`.
        memory: bytes that it needs.
    """

    spec: LayerSpec
    read: Callable[[], NDArray[Any]]
    task: Message
    memory: int


def run_on(executor: Submits, jobs: Mapping[int, Job], bar: Bar) -> dict[int, Analysed]:
    """Run tasks for layers, the largest first. Only names and results are sent.

    Tasks that Dask gives up because workers ended are submitted once more.

    Args:
        executor: runs the tasks, see :func:`ww_callbacks.worker.submits.task_arguments`.
        jobs: position of the layer → what is done with it; ``read`` is called where the task runs.
        bar: of the progress.

    Raises:
        WeightsFileError: a layer cannot be read.
        OSError: the executor has cancelled a task.
        ExecutorEndedError: it takes no more tasks.
    """
    rest = sorted(jobs, key=lambda position: jobs[position].spec.work, reverse=True)
    found: dict[int, Analysed] = {}
    for has_next in (True, False):
        calls = _calls(executor, {position: jobs[position] for position in rest})
        with closing(_finished(calls, executor)) as finished:
            for position, future in finished:
                spec = jobs[position].spec
                answer = _answer(future, spec, has_next=has_next)
                if answer is not None:
                    bar.end(spec.work)
                    found[position] = Analysed(read_answer(answer, spec, None), str(answer.get("digest", "")))
        rest = [position for position in rest if position not in found]
        if not rest:
            break
    return found


def read_and_run(read: Callable[[], NDArray[Any]], task: Message) -> Message:
    """Read a layer and run a task, where the task runs.

    Args:
        read: reads the weights.
        task: see :func:`ww_callbacks.worker.task.run_task`.

    Raises:
        WeightsFileError: they cannot be read. It has no cause: Dask sends causes too, and not all can be pickled.
    """
    try:
        stored = read()
    except WeightsFileError as error:
        problem = WeightsFileError(error.path, error.cause)
    else:
        return run_task(task, stored)
    raise problem


def _calls(executor: Submits, jobs: Mapping[int, Job]) -> dict[int, Callable[[], TaskFuture]]:
    """What submits each task.

    The keys make the tasks of Dask one group, so that most of them wait in the scheduler, not on workers that may end.
    """
    with _taking_tasks():
        arguments_of, is_dask = task_arguments(executor), is_dask_client(executor)
    group = f"read_and_run-{uuid.uuid4().hex}"
    calls: dict[int, Callable[[], TaskFuture]] = {}
    for position, job in jobs.items():
        arguments = arguments_of(job.memory)
        if is_dask:
            arguments |= {"key": (group, position), "priority": job.spec.work}
        calls[position] = partial(executor.submit, read_and_run, job.read, job.task, **arguments)
    return calls


@contextmanager
def _taking_tasks() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _ended(f"{type(error).__name__}: {error}") from error


def _next(done: queue.SimpleQueue[tuple[int, TaskFuture]], executor: Any) -> tuple[int, TaskFuture]:
    """The next task that is done. Those of a Dask client that has closed itself never are.

    Raises:
        ExecutorEndedError: the client is closed.
    """
    while True:
        with suppress(queue.Empty):
            return done.get(timeout=CHECK_INTERVAL)
        if getattr(executor, "status", "") == "closed" and done.empty():
            raise _ended("its client is closed, because the scheduler did not come back")


def _ended(cause: str) -> ExecutorEndedError:
    return ExecutorEndedError(
        f"the executor takes no more tasks ({cause}); follow again with another one, results so far are kept"
    )


def _finished(
    calls: Mapping[int, Callable[[], TaskFuture]], executor: Submits
) -> Generator[tuple[int, TaskFuture], None, None]:
    """Submit tasks, and yield each when it is done. The others are cancelled when this is closed."""
    done: queue.SimpleQueue[tuple[int, TaskFuture]] = queue.SimpleQueue()
    futures = []
    waiting = iter(calls.items())

    def submit(count: int) -> None:
        with _taking_tasks():
            for position, call in islice(waiting, count):
                futures.append(call())
                futures[-1].add_done_callback(partial(_put, done, position))

    try:
        submit(IN_FLIGHT)
        for _ in calls:
            yield _next(done, executor)
            submit(1)
    finally:
        for future in futures:
            with suppress(Exception):  # the connection to a scheduler that has ended
                future.cancel()


def _put(done: queue.SimpleQueue[tuple[int, TaskFuture]], position: int, future: TaskFuture) -> None:
    done.put((position, future))


def _answer(future: TaskFuture, spec: LayerSpec, *, has_next: bool) -> Message | None:
    """The answer of a task; None if it should be submitted again."""
    try:
        answer: Message = future.result()
    except (WeightsFileError, OSError):
        raise
    except CancelledError as error:
        raise OSError(f"the executor has cancelled the analysis of {spec.name!r}") from error
    except Exception as error:  # its workers ended again and again
        if has_next and _is_given_up(error):
            return None
        return {"error": f"{type(error).__name__}: {error}"}
    return answer


def _is_given_up(error: Exception) -> bool:
    """Whether Dask gave up a task because its workers ended. It may only have waited there for other tasks."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(error, distributed.KilledWorker)
