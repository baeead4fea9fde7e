"""Analyses the layers of a checkpoint as tasks of an executor, whose workers read them from a shared file system."""

from __future__ import annotations

import json
import math
import queue
import sys
import uuid
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import CancelledError
from contextlib import closing
from functools import lru_cache, partial
from itertools import islice
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

IN_FLIGHT = 1000
"""Most tasks that are submitted at a time, so that thousands of layers do not keep a client from its scheduler."""

MEMORY_FACTOR = 3
"""Memory that the analysis of a layer needs, as a multiple of its weights in double precision."""


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
            ``memory`` (bytes) if workers declare it; all of the largest worker, if it needs more. Tasks that Dask gives
            up because workers ended are submitted once more.
        path: of the checkpoint, on the workers too.
        layers: position → layer.
        settings: settings of the analysis.
        bar: of the progress.
        split: how to split fused projections.

    Raises:
        WeightsFileError: a layer cannot be read.
        OSError: the executor has failed.
    """
    specs = {position: layer.spec for position, layer in layers.items() if layer.spec is not None}
    rest = sorted(specs, key=lambda position: specs[position].work, reverse=True)
    found: dict[int, Analysed] = {}
    for has_next in (True, False):
        arguments_of = _dask_arguments(executor)
        calls = {
            position: partial(
                executor.submit,
                analyze_stored,
                str(path),
                layers[position].name,
                split,
                settings.to_dict(),
                **arguments_of(position, specs[position]),
            )
            for position in rest
        }
        with closing(_finished(calls)) as finished:
            for position, future in finished:
                spec = specs[position]
                answer = _answer(future, spec, has_next=has_next)
                if answer is not None:
                    bar.end(spec.work)
                    found[position] = Analysed(read_answer(answer, spec, None), str(answer.get("digest", "")))
        rest = [position for position in rest if position not in found]
    return found


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


@lru_cache(maxsize=2)
def _layers_at(path: str, version: Version, split: str) -> dict[str, Layer]:
    """The layers of a checkpoint; its description is read once in each process for each version."""
    return {layer.name: layer for layer in find_layers(path, split=json.loads(split))}


def _finished(calls: Mapping[int, Callable[[], TaskFuture]]) -> Generator[tuple[int, TaskFuture], None, None]:
    """Submit tasks, and yield each when it is done. The others are cancelled when this is closed."""
    done: queue.SimpleQueue[tuple[int, TaskFuture]] = queue.SimpleQueue()
    futures = []
    waiting = iter(calls.items())

    def submit(count: int) -> None:
        for position, call in islice(waiting, count):
            futures.append(call())
            futures[-1].add_done_callback(partial(_put, done, position))

    try:
        submit(IN_FLIGHT)
        for _ in calls:
            yield done.get()
            submit(1)
    finally:
        for future in futures:
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


def _dask_arguments(executor: Any) -> Callable[[int, LayerSpec], dict[str, Any]]:
    """How the task of a layer is submitted to a cluster of Dask; no arguments for other executors.

    The keys make the tasks one group, so that most of them wait in the scheduler, not on workers that may end.
    """
    if not hasattr(executor, "scheduler_info"):
        return lambda position, spec: {}
    memory = _most_memory(executor)
    group = f"analyze_stored-{uuid.uuid4().hex}"

    def arguments(position: int, spec: LayerSpec) -> dict[str, Any]:
        needed = 8 * math.prod(spec.shape) * MEMORY_FACTOR
        resources = {"resources": {"memory": min(needed, memory)}} if memory else {}
        return {"key": (group, position), "retries": RETRIES, "priority": spec.work, **resources}

    return arguments


def _most_memory(client: Any) -> float:
    """The largest resource ``memory`` that a worker of a cluster of Dask declares; 0 if none does."""
    if not client.scheduler_info()["workers"]:
        client.submit(int, pure=False).result()  # a cluster that adapts starts workers when there is a task
    workers = client.scheduler_info()["workers"].values()
    return max((worker.get("resources", {}).get("memory", 0) for worker in workers), default=0)
