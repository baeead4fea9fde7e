"""Creates the executor selected by the ``executor=`` argument."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from ww_callbacks.worker.handing_over import HandingOver
from ww_callbacks.worker.kept import Kept
from ww_callbacks.worker.pool import Inline, ThreadPool
from ww_callbacks.worker.process_pool import ProcessPool, SharedMemory
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.submits import Submits
from ww_callbacks.worker.watched import Watched

Kind = Literal["process", "thread", "sync"]


class AnalysisExecutor(Protocol):
    """Runs analysis tasks."""

    @property
    def broken(self) -> str:
        """Why tasks are not run any more; empty if they are."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the running workers owned by this executor."""

    def submit(
        self, fn: Callable[..., Message], task: Message, stored: NDArray[Any], kept: Kept | None = None
    ) -> Future[Message]:
        """Run ``fn(task, stored, kept)``. ``stored`` must not change until the future is done."""

    def shutdown(self) -> None:
        """Cancel unfinished tasks and stop the workers owned by this executor."""


def make_executor(
    executor: str | Submits, memory: SharedMemory, *, workers: int, layer_timeout: float, low_priority: bool = True
) -> AnalysisExecutor:
    """Create the executor that analyses layers.

    Args:
        executor: "process", "thread", "sync" or an executor provided by the user.
        memory: memory that holds the weights.
        workers: number of processes or threads; not used for "sync" or a user's executor.
        layer_timeout: limit per layer in seconds; for executors that cannot stop a task, seconds without any result.
        low_priority: whether processes get a lower priority than this one.
    """
    if executor == "process":
        return ProcessPool(memory, workers=workers, layer_timeout=layer_timeout, low_priority=low_priority)
    if executor == "sync":
        return Inline()
    if executor == "thread":
        return Watched(ThreadPool(workers), layer_timeout)
    assert not isinstance(executor, str)
    return Watched(HandingOver(executor), layer_timeout)
