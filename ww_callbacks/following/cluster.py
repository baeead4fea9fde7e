"""Analyses the layers of a checkpoint as tasks of an executor, whose workers read them from a shared file system."""

from __future__ import annotations

import json
import math
import queue
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

from ww_callbacks.analysis import LayerSpec, Settings
from ww_callbacks.following.scan import Version, version_of
from ww_callbacks.models.run import Analysed
from ww_callbacks.progress import Bar
from ww_callbacks.weights import Layer, Split, find_layers
from ww_callbacks.weights.files.errors import WeightsFileError
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.task import make_task, read_answer, run_task

RETRIES = 3
"""How often a task is run again elsewhere when the worker of a cluster of Dask ends."""

MEMORY_FACTOR = 3
"""Memory that the analysis of a layer needs, as a multiple of its weights in double precision."""

CHECK_INTERVAL = 5.0
"""Seconds between two looks whether the client of a Dask cluster is closed."""


class ExecutorEndedError(OSError):
    """An executor takes no more tasks: it was shut down, or the scheduler of a Dask cluster did not come back."""


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


def run_on(
    executor: Submits,
    path: Path,
    layers: Mapping[int, Layer],
    settings: Settings,
    bar: Bar,
    split: Split | None = None,
) -> dict[int, Analysed]:
    """Analyse layers of a checkpoint, the largest first. Only names and results are sent.

    Args:
        executor: runs the tasks. With Dask, a task whose worker ends is run elsewhere, and needs the resource
            ``memory`` (bytes) if workers declare it.
        path: of the checkpoint, on the workers too.
        layers: position → layer.
        settings: settings of the analysis.
        bar: of the progress.
        split: how to split fused projections.

    Raises:
        WeightsFileError: a layer cannot be read.
        OSError: the executor has cancelled a task.
        ExecutorEndedError: it takes no more tasks.
    """
    done: queue.SimpleQueue[tuple[int, TaskFuture]] = queue.SimpleQueue()
    specs = {position: layer.spec for position, layer in layers.items() if layer.spec is not None}
    order = sorted(specs, key=lambda position: specs[position].work, reverse=True)
    futures = []
    try:
        with _taking_tasks():
            arguments_of = _dask_arguments(executor)
            for position in order:
                layer, arguments = layers[position], arguments_of(specs[position])
                future = executor.submit(analyze_stored, str(path), layer.name, split, settings.to_dict(), **arguments)
                future.add_done_callback(partial(_put, done, position))
                futures.append(future)
        return dict(_answer(*_next(done, executor), specs, bar) for _ in order)
    finally:
        for future in futures:
            with suppress(Exception):  # the connection to a scheduler that has ended
                future.cancel()


def analyze_stored(path: str, name: str, split: Split | None, settings: dict[str, Any]) -> Message:
    """Read and analyse one layer of a checkpoint, where the task runs.

    Args:
        path: of the checkpoint.
        name: of the layer.
        split: how to split fused projections.
        settings: of the analysis, as plain values.

    Returns:
        The answer of :func:`ww_callbacks.worker.task.run_task`.

    Raises:
        WeightsFileError: it cannot be read.
    """
    layer = _layers_at(path, version_of(Path(path)), json.dumps(split))[name]
    assert layer.spec is not None
    assert layer.read is not None
    return run_task(make_task(layer.spec, Settings.from_dict(settings), None), layer.read())


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


@lru_cache(maxsize=2)
def _layers_at(path: str, version: Version, split: str) -> dict[str, Layer]:
    """The layers of a checkpoint; its description is read once in each process for each version."""
    return {layer.name: layer for layer in find_layers(path, split=json.loads(split))}


def _put(done: queue.SimpleQueue[tuple[int, TaskFuture]], position: int, future: TaskFuture) -> None:
    done.put((position, future))


def _answer(position: int, future: TaskFuture, specs: Mapping[int, LayerSpec], bar: Bar) -> tuple[int, Analysed]:
    spec = specs[position]
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


def _dask_arguments(executor: Any) -> Callable[[LayerSpec], dict[str, Any]]:
    """How a task is submitted to a cluster of Dask; no arguments for other executors."""
    if not hasattr(executor, "scheduler_info"):
        return lambda spec: {}
    workers = executor.scheduler_info().get("workers", {}).values()
    has_memory = any("memory" in worker.get("resources", {}) for worker in workers)

    def arguments(spec: LayerSpec) -> dict[str, Any]:
        resources = {"resources": {"memory": 8 * math.prod(spec.shape) * MEMORY_FACTOR}} if has_memory else {}
        return {"pure": False, "retries": RETRIES, "priority": spec.work, **resources}

    return arguments
