"""What a user's executor is, and how tasks are submitted to one: of ``concurrent.futures``, or a client of Dask."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Protocol

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.checks import is_dask_client

RETRIES = 3
"""How often Dask runs a task again that raises. For workers that end, its own ``allowed-failures`` counts."""

POLL_SECONDS = 0.1
"""Seconds between two looks for the first worker of a Dask cluster."""

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


def as_executor(executor: Submits) -> Executor:
    """The executor of a client of Dask, whose futures are those of ``concurrent.futures``; others as they are."""
    found = executor.get_executor() if is_dask_client(executor) else executor  # type: ignore[attr-defined]
    assert isinstance(found, Executor)
    return found


def memory_of(spec: LayerSpec) -> int:
    """Bytes that the analysis of a layer needs."""
    return 8 * math.prod(spec.shape) * MEMORY_FACTOR


def task_arguments(executor: Submits) -> Callable[[int], dict[str, Any]]:
    """How a task that needs so many bytes is submitted: with arguments of Dask, or without any.

    With Dask, a task that raises is run again. If workers declare the resource ``memory`` (bytes), a task
    needs as much of it, or all of the largest worker if this has less. Arguments of tasks are not hashed, which takes
    longer than sending them. May wait for the scheduler.
    """
    if not is_dask_client(executor):
        return lambda memory: {}
    most = _most_memory(executor)

    def arguments(memory: int) -> dict[str, Any]:
        resources = {"resources": {"memory": min(memory, most)}} if most else {}
        return {"pure": False, "retries": RETRIES, **resources}

    return arguments


def _most_memory(client: Any) -> float:
    """The largest resource ``memory`` that a worker of a cluster of Dask declares; 0 if none does."""
    if not client.scheduler_info().get("workers"):
        _wait_for_a_worker(client)
    workers = client.scheduler_info().get("workers", {}).values()
    return max((worker.get("resources", {}).get("memory", 0) for worker in workers), default=0)


def _wait_for_a_worker(client: Any) -> None:
    """Submit a task, since a cluster that adapts starts workers when there is one.

    Raises:
        OSError: the client is closed, because the scheduler did not come back.
    """
    future = client.submit(int, pure=False)
    while not future.done():
        if client.status == "closed":
            raise OSError("its client is closed, because the scheduler did not come back")
        time.sleep(POLL_SECONDS)


def sending_weights() -> contextlib.AbstractContextManager[object]:
    """Dask gives no advice about large tasks meanwhile. Warnings cannot be filtered in one thread only."""
    if "distributed" not in sys.modules:
        return contextlib.nullcontext()
    import dask

    return dask.config.set({"distributed.admin.large-graph-warning-threshold": sys.maxsize})
