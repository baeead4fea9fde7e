"""Copies of the weights on their way through the analysis, and their reports in the order of steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import islice

from ww_callbacks.analysis import LayerSpec, Settings
from ww_callbacks.engine.pending import Awaited, Pending
from ww_callbacks.engine.resources import Limits, Line
from ww_callbacks.report import Report
from ww_callbacks.weights import Layer
from ww_callbacks.worker.protocol import Message


class Engine:
    """Takes snapshots and has them analysed. Used from the training thread only.

    Args:
        settings: how layers are analysed.
        limits: what may be used.
    """

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings, self._limits = settings, limits
        self._line: Line | None = None
        self._under_way: deque[Pending] = deque()
        self._start = time.monotonic()
        self._reserved = 0.0
        self.taken = self.failed = 0
        self.worker_cpu = self.copy_seconds = 0.0
        self.snapshot_bytes = 0
        self._drawing: Future[Message] | None = None

    def __len__(self) -> int:
        """Snapshots under way."""
        return len(self._under_way)

    @property
    def broken(self) -> str:
        """Why nothing is analysed any more; empty while something can be."""
        return self._line.analyst.broken if self._line is not None else ""

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes that analyse."""
        return self._line.pids if self._line is not None else ()

    @property
    def oldest_step(self) -> int | None:
        """The step of the oldest snapshot under way."""
        return self._under_way[0].step if self._under_way else None

    @property
    def last_steps(self) -> dict[str, int | None]:
        """The step at which each layer was looked at last, by name; None where it never was."""
        if self._line is None:
            return {}
        known = self._line.known
        steps = ((known[index].report.step if index in known else None) for index in range(len(self._line.specs)))
        return {spec.name: step for spec, step in zip(self._line.specs, steps, strict=True)}

    def fits(self, layers: Sequence[Layer]) -> bool:
        """Whether memory and analysts are those of these layers; others need a :meth:`renew` first."""
        return self._line is not None and self._line.specs == _specs(layers)

    def renew(self, layers: Sequence[Layer]) -> None:
        """Memory and analysts for these layers; what is still under way is dropped.

        Raises:
            MemoryError: there is not enough memory for the snapshots, or not enough is allowed.
        """
        self.close()
        self._line = Line(_specs(layers), self._limits)
        self.snapshot_bytes = self._line.buffer.nbytes

    @property
    def is_full(self) -> bool:
        """Whether no snapshot can be taken now, for each slot holds one."""
        return self._line is not None and not self._line.buffer.has_free_slot

    def is_affordable(self) -> bool:
        """Whether the budget has anything left for a snapshot."""
        return self._allowance() > 0

    def take(self, layers: tuple[Layer, ...], step: int, skipped: int) -> None:
        """Copy weights and hand them over: those of all layers, or as many as the budget allows.

        Args:
            layers: every layer of the model, analysed or not; those that memory and analysts are for.
            step: finished optimizer steps.
            skipped: snapshots skipped so far.
        """
        assert self._line is not None
        line, start = self._line, time.perf_counter()
        chosen = line.choose(self._allowance())
        slot = line.copy([layer.source for layer in layers if layer.source is not None], chosen, step)
        assert slot is not None
        self.copy_seconds += time.perf_counter() - start
        self._under_way.append(Pending(step, time.time(), skipped, slot, layers, chosen))
        self.taken += 1
        self.hand_over()

    def hand_over(self, wait_for: int = 0) -> None:
        """Have those snapshots analysed whose weights have arrived from the device they were on.

        Args:
            wait_for: so many of those under way are waited for.
        """
        for number, pending in enumerate(self._under_way):
            if pending.awaited is None and not self._hand_over(pending, wait=number < wait_for):
                return  # the later ones come after it

    def _hand_over(self, pending: Pending, *, wait: bool) -> bool:
        assert self._line is not None
        start = time.perf_counter()
        arrived = self._line.buffer.arrived(pending.slot, wait=wait)
        self.copy_seconds += time.perf_counter() - start
        if arrived:
            awaited = self._line.submit(pending.slot, pending.chosen, self._settings, pending.step)
            self._reserved += sum(each.seconds for each in awaited.values())
            positions = _positions(pending.layers)
            pending.awaited = {positions[index]: each for index, each in awaited.items()}
        return arrived

    def futures(self, count: int) -> list[Future[Message]]:
        """What the first ``count`` snapshots under way wait for."""
        self.hand_over(wait_for=count)
        under_way = [pending.awaited or {} for pending in islice(self._under_way, count)]
        return [each.future for awaited in under_way for each in awaited.values()]

    def finished(self) -> Iterator[tuple[Pending, Report]]:
        """The snapshots whose results are in, each once, in the order of their steps."""
        self.hand_over()
        self._count_drawing()
        while self._under_way and self._under_way[0].done():
            pending = self._under_way.popleft()
            report = self._read(pending)
            if self._line is not None:
                self._line.buffer.release(pending.slot)
            yield pending, report

    def draw(self, values: Message) -> Future[Message] | None:
        """Have something drawn in a process that does nothing else; None where there are no processes of our own."""
        self._drawing = self._line.draw(values) if self._line is not None else None
        return self._drawing

    def close(self) -> None:
        """End the analysis at once and free the memory; what is under way is dropped."""
        self._under_way.clear()
        self._reserved = 0.0
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _count_drawing(self) -> None:
        """What was drawn is paid from the budget too."""
        if self._drawing is not None and self._drawing.done():
            drawing, self._drawing = self._drawing, None
            if not drawing.cancelled():
                self.worker_cpu += float(drawing.result().get("cpu", 0.0))

    def _allowance(self) -> float:
        budget = self._limits.budget
        if budget is None:
            return float("inf")
        return budget.allowance(time.monotonic() - self._start, self.worker_cpu + self._reserved)

    def _read(self, pending: Pending) -> Report:
        assert self._line is not None
        positions = _positions(pending.layers)
        for index, position in enumerate(positions):
            if pending.awaited and position in pending.awaited:
                self._learn(self._line, index, pending.awaited[position], pending.step)
        known = {positions[index]: known for index, known in self._line.known.items()}
        return pending.report(known)

    def _learn(self, line: Line, index: int, awaited: Awaited, step: int) -> None:
        line.known[index] = awaited.read(line.specs[index], step)
        self._reserved -= awaited.seconds
        seconds = awaited.answer().get("cpu")
        if isinstance(seconds, float):
            self.worker_cpu += seconds
            line.costs.measure(index, seconds)
        else:
            self.failed += 1


def _specs(layers: Sequence[Layer]) -> list[LayerSpec]:
    return [layer.spec for layer in layers if layer.spec is not None]


def _positions(layers: Sequence[Layer]) -> list[int]:
    """Where the analysed layers stand among all of them."""
    return [position for position, layer in enumerate(layers) if layer.spec is not None]
