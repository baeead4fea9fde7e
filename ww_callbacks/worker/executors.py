"""The executor that an ``executor=`` argument asks for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from ww_callbacks.worker.external import Borrowed
from ww_callbacks.worker.pool import Inline, ThreadPool
from ww_callbacks.worker.process_pool import SharedMemory, WorkerProcess
from ww_callbacks.worker.protocol import Message

Kind = Literal["process", "thread", "sync"]


class AnalysisExecutor(Protocol):
    """Runs analysis tasks."""

    @property
    def broken(self) -> str:
        """Why no task is done any more; empty while they are."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes of its own that run now."""

    def submit(self, fn: Callable[..., Message], task: Message, stored: NDArray[Any]) -> Future[Message]:
        """Have ``fn(task, stored)`` called; ``stored`` must not change before the result is in."""

    def shutdown(self) -> None:
        """Cancel what is not done, end what is its own."""


def make_executor(
    executor: str | Executor, memory: SharedMemory, *, workers: int, layer_timeout: float
) -> AnalysisExecutor:
    """Where layers are analysed.

    Args:
        executor: "process", "thread", "sync" or an executor of the user's.
        memory: where the weights lie.
        workers: processes or threads of its own.
        layer_timeout: seconds that one layer may take; where it cannot be ended, seconds without any result.
    """
    if executor == "process":
        return WorkerProcess(memory, workers=workers, layer_timeout=layer_timeout)
    if executor == "sync":
        return Inline()
    if executor == "thread":
        return _Watched(ThreadPool(workers), layer_timeout)
    assert isinstance(executor, Executor)
    return Borrowed(executor, layer_timeout)


class _Watched(Borrowed):
    """An executor of our own that cannot end a task: it is told when it hangs, and shut down at the end."""

    def shutdown(self) -> None:
        super().shutdown()
        self._executor.shutdown(wait=False)
