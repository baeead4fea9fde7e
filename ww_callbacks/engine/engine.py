"""Copies weights, submits them for analysis and returns the reports in the order of their steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice

from ww_callbacks.analysis import LayerSpec, Settings
from ww_callbacks.engine.missed import Missed
from ww_callbacks.engine.pending import Awaited, Pending, read
from ww_callbacks.engine.resources import Limits, Resources
from ww_callbacks.engine.status import Status, resident_bytes
from ww_callbacks.report import Report
from ww_callbacks.weights import Layer
from ww_callbacks.worker.protocol import Message


class Engine:
    """Takes snapshots and submits them for analysis. Used by one thread at a time, except for :meth:`status`.

    Args:
        settings: how layers are analysed.
        limits: what may be used.

    Attributes:
        spooled: snapshots written to files.
        problem: why a snapshot was not written; empty if all were.
        under_way: the step of each pending snapshot. It refers to nothing else, and can be kept after this object.
    """

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings, self._limits = settings, limits
        self._resources: Resources | None = None
        self._pending: deque[Pending] = deque()
        self._arriving: deque[Pending] = deque()  # those of them that are not submitted yet
        self.under_way: deque[int] = deque()
        self._start = time.monotonic()
        self._reserved = 0.0
        self.taken = self.failed = self.spooled = 0
        self.problem = ""
        self.worker_cpu = self.copy_seconds = 0.0
        self.snapshot_bytes = 0
        self._drawing: Future[Message] | None = None

    def need(self, flags: Iterable[str]) -> None:
        """Turn on settings of the analysis, for the snapshots submitted from now on.

        Args:
            flags: names of settings that are True or False, such as "farms".

        Raises:
            ValueError: there is no such setting.
        """
        self._settings = Settings.from_dict(self._settings.to_dict() | dict.fromkeys(flags, True))

    @property
    def pending(self) -> int:
        """Number of snapshots whose results are not all in."""
        return len(self._pending)

    @property
    def broken(self) -> str:
        """Why layers can no longer be analysed; empty while they can."""
        return self._resources.executor.broken if self._resources is not None else ""

    def status(
        self, step: int, *, published: int, missed: Missed, waited_seconds: float, hook_seconds: float
    ) -> Status:
        """The state of the monitoring, and what it cost so far.

        Args:
            step: finished optimizer steps.
            published: reports published.
            missed: snapshots missed so far.
            waited_seconds: time that training waited for results.
            hook_seconds: time that training spent in the monitor.
        """
        pids = self._resources.pids if self._resources is not None else ()
        pending = tuple(self._pending)  # another thread may take and publish snapshots meanwhile
        return Status(
            snapshots=self.taken,
            published=published,
            pending=len(pending),
            skipped=missed.skipped,
            over_budget=missed.over_budget,
            failed=self.failed,
            spooled=self.spooled if self._limits.spool is not None else None,
            lag_steps=step - pending[0].step if pending else 0,
            worker_pids=pids,
            worker_memory=resident_bytes(pids),
            worker_cpu=self.worker_cpu,
            snapshot_bytes=self.snapshot_bytes,
            copy_seconds=self.copy_seconds,
            waited_seconds=waited_seconds,
            hook_seconds=hook_seconds,
            wall_seconds=time.monotonic() - self._start,
            staleness={name: None if last is None else step - last for name, last in self._last_steps().items()},
        )

    def _last_steps(self) -> dict[str, int | None]:
        """The step at which each layer was analysed last, by name; None if it never was."""
        resources = self._resources
        if resources is None:
            return {}
        known = map(resources.known.get, range(len(resources.specs)))
        return {
            spec.name: None if found is None else found.report.step
            for spec, found in zip(resources.specs, known, strict=True)
        }

    def fits(self, layers: Sequence[Layer]) -> bool:
        """Whether the memory was allocated for these layers; otherwise call :meth:`renew` first."""
        return self._resources is not None and self._resources.specs == _specs(layers)

    def renew(self, layers: Sequence[Layer], *, low_priority: bool = True) -> None:
        """Allocate memory and executors for these layers; pending snapshots are dropped.

        Args:
            layers: every layer of the model, analysed or not.
            low_priority: whether worker processes get a lower priority than training. At a low priority a worker gets
                next to no CPU time beside other programs, so a training that waits for it would come to a halt.

        Raises:
            MemoryError: the copies need more memory than is available.
        """
        self.close()
        self._resources = Resources(_specs(layers), replace(self._limits, low_priority=low_priority))
        self.snapshot_bytes = self._resources.buffer.nbytes

    def make_room(self) -> bool:
        """Whether there is a slot for a snapshot now; a spare one is allocated if all others are in use."""
        return self._resources is None or self._resources.buffer.make_room()

    def is_affordable(self) -> bool:
        """Whether the budget allows a snapshot now."""
        return self._allowance() > 0

    def take(self, layers: tuple[Layer, ...], step: int, missed: Missed) -> None:
        """Copy weights and submit them for analysis: all layers, or as many as the budget allows.

        Args:
            layers: every layer of the model, analysed or not; the same as in :meth:`renew`.
            step: finished optimizer steps.
            missed: snapshots missed so far.
        """
        assert self._resources is not None
        resources, start = self._resources, time.perf_counter()
        chosen = resources.next_layers(self._allowance())
        slot = resources.copy([layer.source for layer in layers if layer.source is not None], chosen, step)
        assert slot is not None
        self.copy_seconds += time.perf_counter() - start
        pending = Pending(step, time.time(), missed, slot, layers, chosen)
        self._pending.append(pending)
        self._arriving.append(pending)
        self.under_way.append(step)
        self.snapshot_bytes = resources.buffer.nbytes
        self.taken += 1
        self.submit()

    def submit(self, wait_for: int = 0) -> None:
        """Submit the snapshots whose weights have arrived from their device.

        Args:
            wait_for: wait for the weights of this many pending snapshots.
        """
        wait_for -= len(self._pending) - len(self._arriving)
        while self._arriving and self._submit(self._arriving[0], wait=wait_for > 0):  # in order
            self._arriving.popleft()
            wait_for -= 1

    def _submit(self, pending: Pending, *, wait: bool) -> bool:
        assert self._resources is not None
        start = time.perf_counter()
        arrived = self._resources.buffer.arrived(pending.slot, wait=wait)
        self.copy_seconds += time.perf_counter() - start
        if arrived:
            if self._limits.spool is None:
                awaited = self._resources.submit(pending.slot, pending.chosen, self._settings, pending.step)
            else:
                awaited = [self._resources.spool(pending.slot, pending.layers, pending.step)]
            self._reserved += sum(each.seconds for each in awaited)
            pending.awaited = deque(awaited)
        return arrived

    def futures(self, count: int) -> list[Future[Message]]:
        """The futures of the first ``count`` pending snapshots."""
        self.submit(wait_for=count)
        return [each.future for pending in islice(self._pending, count) for each in pending.awaited or ()]

    def collect(self) -> Iterator[tuple[Pending, Report] | None]:
        """Read the messages that are in, piece by piece.

        Yields:
            None after each message, then the snapshot whose messages are all in; in the order of their steps. Nothing
            more than None for snapshots that are written to files.
        """
        self.submit()
        self._count_drawing()
        while self._pending and (awaited := self._pending[0].awaited) is not None:
            while awaited and awaited[0].future.done():
                self._read(awaited.popleft(), self._pending[0].step)
                yield None
            if awaited or self._resources is None:
                return
            pending = self._pending.popleft()
            self.under_way.popleft()
            self._resources.buffer.release(pending.slot)
            if self._limits.spool is None:
                yield pending, pending.report(self._resources.known)

    def draw(self, values: Message) -> Future[Message] | None:
        """Submit a drawing task to a separate process; None if the executor is not "process"."""
        self._drawing = self._resources.draw(values) if self._resources is not None else None
        return self._drawing

    def close(self) -> None:
        """Stop the analysis at once and free the memory; pending snapshots are dropped."""
        self._pending.clear()
        self._arriving.clear()
        self.under_way.clear()
        self._reserved = 0.0
        resources, self._resources = self._resources, None
        if resources is not None:
            resources.close()

    def _count_drawing(self) -> None:
        """Drawing is charged to the budget too."""
        if self._drawing is not None and self._drawing.done():
            drawing, self._drawing = self._drawing, None
            if not drawing.cancelled():
                self.worker_cpu += float(drawing.result().get("cpu", 0.0))

    def _allowance(self) -> float:
        budget = self._limits.budget
        if budget is None:
            return float("inf")
        return budget.allowance(time.monotonic() - self._start, self.worker_cpu + self._reserved)

    def _read(self, awaited: Awaited, step: int) -> None:
        assert self._resources is not None
        resources = self._resources
        if self._limits.spool is not None:
            self._count_spooled(awaited.message(), step)
            return
        self._reserved -= awaited.seconds
        for index, known, answer in zip(awaited.layers, awaited.known, awaited.answers(), strict=True):
            before = resources.known.get(index)
            resources.known[index] = read(answer, resources.specs[index], step, known, before)
            seconds = answer.get("cpu")
            if isinstance(seconds, float):
                self.worker_cpu += seconds
                resources.costs.measure(index, seconds)
            else:
                self.failed += 1

    def _count_spooled(self, answer: Message, step: int) -> None:
        self.worker_cpu += float(answer.get("cpu", 0.0))
        if "spooled" in answer:
            self.spooled += 1
        else:
            self.failed += 1
            self.problem = f"step {step}: {answer.get('error', 'the worker gave no answer')}"


def _specs(layers: Sequence[Layer]) -> list[LayerSpec]:
    return [layer.spec for layer in layers if layer.spec is not None]
