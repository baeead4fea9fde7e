"""Analyses the layers of a checkpoint as tasks of an executor, whose workers read them from a shared file system."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.models.run import Analysed
from ww_callbacks.progress import Bar
from ww_callbacks.weights.files.errors import WeightsFileError
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.task import read_answer, run_task

RETRIES = 3
"""How often a task is run again elsewhere when the worker of a cluster of Dask ends."""


class TaskFuture(Protocol):
    """A future of ``concurrent.futures`` or of Dask."""

    def result(self) -> Any:
        """The result, or the exception of the task."""

    def add_done_callback(self, fn: Callable[[Any], object], /) -> Any:
        """Call ``fn`` when it is done."""

    def cancel(self) -> Any:
        """Cancel the task."""


class Submits(Protocol):
    """A ``concurrent.futures.Executor``, or a ``distributed.Client``."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskFuture:
        """Run a function."""


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

    Args:
        executor: runs the tasks. With Dask, a task whose worker ends is run elsewhere, and needs the resource
            ``memory`` (bytes) if workers declare it.
        jobs: position of the layer → what is done with it; ``read`` is called where the task runs.
        bar: of the progress.

    Raises:
        WeightsFileError: a layer cannot be read.
        OSError: the executor has failed.
    """
    done: queue.SimpleQueue[tuple[int, TaskFuture]] = queue.SimpleQueue()
    order = sorted(jobs, key=lambda position: jobs[position].spec.work, reverse=True)
    options_of = _dask_options(executor)
    futures = []
    try:
        for position in order:
            job = jobs[position]
            future = executor.submit(read_and_run, job.read, job.task, **options_of(job))
            future.add_done_callback(partial(_put, done, position))
            futures.append(future)
        return dict(_answer(*done.get(), jobs, bar) for _ in order)
    finally:
        for future in futures:
            future.cancel()


def read_and_run(read: Callable[[], NDArray[Any]], task: Message) -> Message:
    """Read the weights and run the task, where this is called.

    Raises:
        Exception: what reading raises.
    """
    return run_task(task, read())


def _put(done: queue.SimpleQueue[tuple[int, TaskFuture]], position: int, future: TaskFuture) -> None:
    done.put((position, future))


def _answer(position: int, future: TaskFuture, jobs: Mapping[int, Job], bar: Bar) -> tuple[int, Analysed]:
    spec = jobs[position].spec
    try:
        answer = future.result()
    except (WeightsFileError, OSError):
        raise
    except CancelledError as error:
        raise OSError(f"the executor has cancelled the analysis of {spec.name!r}") from error
    except Exception as error:  # its workers ended again and again
        answer = {"error": f"{type(error).__name__}: {error}"}
    bar.end(spec.work)
    return position, Analysed(read_answer(answer, spec, None), str(answer.get("digest", "")))


def _dask_options(executor: Any) -> Callable[[Job], dict[str, Any]]:
    """How a task is submitted to a cluster of Dask; no options for other executors."""
    if not hasattr(executor, "scheduler_info"):
        return lambda job: {}
    workers = executor.scheduler_info()["workers"].values()
    has_memory = any("memory" in worker.get("resources", {}) for worker in workers)

    def options(job: Job) -> dict[str, Any]:
        resources = {"resources": {"memory": job.memory}} if has_memory else {}
        return {"pure": False, "retries": RETRIES, "priority": job.spec.work, **resources}

    return options
