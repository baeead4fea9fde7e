"""Memory and executors for one set of layers, and the latest results of each layer."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from ww_callbacks.analysis import LayerSpec, Settings
from ww_callbacks.engine.budget import Budget
from ww_callbacks.engine.grouping import sent_together
from ww_callbacks.engine.pending import Awaited, Known
from ww_callbacks.engine.rotation import Candidate, Costs, choose
from ww_callbacks.weights import Layer
from ww_callbacks.weights.files.snapshots import Described, described
from ww_callbacks.worker.executors import make_executor
from ww_callbacks.worker.kept import kept_bytes, whole_pages
from ww_callbacks.worker.memory import available_memory
from ww_callbacks.worker.process_pool import FigureWorker, ProcessPool
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer, Source
from ww_callbacks.worker.spool import make_spool_task
from ww_callbacks.worker.submits import Submits
from ww_callbacks.worker.task import make_task, run_task

ROTATION_BYTES = 256 * 2**20
"""Size of a slot when layers are analysed in rotation, unless one of them is larger."""

SMALL_BYTES = 32 * 2**20
"""Memory for the copies of small models: as many slots as fit, but at least ``Limits.slots``. So many copies of small
layers are analysed within about half a minute, so that the end of a run can wait for them."""

KEPT_SHARE = 0.5
"""Largest share of the memory beside the snapshots for copies of earlier weights."""

_log = logging.getLogger("ww_callbacks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an engine may use.

    Attributes:
        executor: where layers are analysed: "process", "thread", "sync" or an executor of the user's.
        workers: number of processes or threads, unless the executor is the user's.
        slots: snapshots that can be pending at the same time; more if their copies fit into ``SMALL_BYTES``.
        layer_timeout: seconds that the analysis of one layer may take.
        budget: limit of the CPU time of the analysis; None to analyse all layers at each snapshot.
        low_priority: whether worker processes get a lower priority than training, which then does not wait for them.
        updates: keep two copies of each layer, to compare it with its first and its previous snapshot.
        spool: folder into which snapshots are written in place of an analysis; an absolute path. A slow disk has no
            time limit then. The executor is "process".
    """

    executor: str | Submits = "process"
    workers: int = 1
    slots: int = 2
    layer_timeout: float = 600.0
    budget: Budget | None = None
    low_priority: bool = True
    updates: bool = False
    spool: Path | None = None


class Resources:
    """Memory and executors for one set of layers.

    Args:
        specs: the layers.
        limits: what may be used.

    Raises:
        MemoryError: the copies need more memory than is available.
    """

    def __init__(self, specs: Sequence[LayerSpec], limits: Limits) -> None:
        self.specs, self.limits = list(specs), limits
        arrays = [(spec.shape, spec.storage_dtype) for spec in specs]
        self._nbytes = [SnapshotBuffer.nbytes_of([array]) for array in arrays]
        self.capacity = slot_bytes(self._nbytes, limits)
        keep = kept_layers(specs, self._memory_beside_slots()) if limits.updates else []
        self.buffer = SnapshotBuffer(
            arrays, limits.slots, self.capacity, keep, spare_slots(self.capacity, limits.slots)
        )
        self.executor = make_executor(
            limits.executor,
            self.buffer,
            workers=limits.workers,
            layer_timeout=limits.layer_timeout if limits.spool is None else math.inf,
            low_priority=limits.low_priority,
        )
        self._figure_worker: FigureWorker | None = None
        self.known: dict[int, Known] = {}
        self.costs = Costs(specs)
        self._order = sorted(range(len(specs)), key=lambda index: specs[index].work, reverse=True)
        self._last_chosen: dict[int, int] = {}
        self._tasks: tuple[Settings, list[Message]] | None = None
        self._described: tuple[Sequence[Layer], Described] | None = None
        if isinstance(self.executor, ProcessPool):
            self.executor.start()

    def next_layers(self, seconds: float) -> list[int]:
        """The layers of the next snapshot, ascending.

        Args:
            seconds: what their analysis may cost.
        """
        if self.limits.budget is None:
            return list(range(len(self.specs)))
        return choose([self._candidate(index) for index in range(len(self.specs))], seconds, self.capacity)

    def copy(self, sources: Sequence[Source], chosen: Sequence[int], step: int) -> int | None:
        """Copy the chosen layers, or start to; None if no slot is free."""
        self._last_chosen.update(dict.fromkeys(chosen, step))
        return self.buffer.take([sources[index] for index in chosen], chosen)

    def submit(self, slot: int, chosen: Sequence[int], settings: Settings, step: int) -> list[Awaited]:
        """Submit the chosen layers for analysis, the largest first, several small ones in one message."""
        wanted, tasks = set(chosen), self._tasks_with(settings)
        order = [index for index in self._order if index in wanted]
        together = isinstance(self.executor, ProcessPool)
        groups = sent_together(order, self._nbytes, self.limits.workers) if together else ((index,) for index in order)
        return [self._submit(group, slot, tasks, step) for group in groups]

    def _submit(self, group: tuple[int, ...], slot: int, tasks: Sequence[Message], step: int) -> Awaited:
        known = tuple(map(self.known.get, group))
        jobs = [
            (
                tasks[index] | {"step": step, "digest": before.digest if before is not None else ""},
                self.buffer.array(slot, index),
                self.buffer.kept(index),
            )
            for index, before in zip(group, known, strict=True)
        ]
        if isinstance(self.executor, ProcessPool) and len(jobs) > 1:
            future = self.executor.submit_together(jobs)
        else:
            future = self.executor.submit(run_task, *jobs[0])
        return Awaited(future, group, known, sum(map(self.costs.__getitem__, group)))

    def spool(self, slot: int, layers: Sequence[Layer], step: int) -> Awaited:
        """Submit a snapshot, all layers of which were copied, to be written into the folder of ``Limits.spool``."""
        assert isinstance(self.executor, ProcessPool)
        assert self.limits.spool is not None
        if self._described is None or self._described[0] is not layers:
            self._described = layers, described(layers)
        offsets = [self.buffer.offset_of(self.buffer.array(slot, index)) for index in range(len(self.specs))]
        task = make_spool_task(self.limits.spool, step, self._described[1], offsets)
        return Awaited(self.executor.spool(task), (), (), 0.0)

    def _tasks_with(self, settings: Settings) -> list[Message]:
        """The tasks of all layers without step and digest, made once."""
        if self._tasks is None or self._tasks[0] != settings:
            self._tasks = settings, [make_task(spec, settings, None) for spec in self.specs]
        return self._tasks[1]

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that run."""
        return self.executor.pids + (self._figure_worker.pids if self._figure_worker is not None else ())

    def draw(self, values: Message) -> Future[Message] | None:
        """Submit a drawing task to a separate process, so that the analysis never waits for pictures.

        Args:
            values: of :func:`ww_callbacks.outputs.panels.picture_task`.

        Returns:
            None if the executor is not "process".
        """
        if self.limits.executor != "process":
            return None
        if self._figure_worker is None:
            self._figure_worker = FigureWorker(self.limits.layer_timeout)
        return self._figure_worker.draw(values)

    def close(self) -> None:
        """Shut the executors down and free the memory."""
        self.executor.shutdown()
        if self._figure_worker is not None:
            self._figure_worker.shutdown()
        self.buffer.close()

    def _memory_beside_slots(self) -> int | None:
        available = available_memory()
        return None if available is None else max(0, available - self.limits.slots * self.capacity)

    def _candidate(self, index: int) -> Candidate:
        known = self.known.get(index)
        change = known.change if known is not None else 0.0
        return Candidate(self._last_chosen.get(index), change, self.costs[index], self._nbytes[index])


def slot_bytes(layers: Sequence[int], limits: Limits) -> int:
    """Size of one slot in bytes: all layers, or with a budget the layers of one turn.

    Example:
        >>> slot_bytes([2**20] * 3, Limits())
        3145728
        >>> slot_bytes([2**28] * 100, Limits(budget=Budget(share=0.05))) == 2**28
        True
    """
    need = sum(layers)
    return need if limits.budget is None else min(need, max(*layers, ROTATION_BYTES))


def spare_slots(capacity: int, slots: int) -> int:
    """Number of slots beside the first ones that fit into ``SMALL_BYTES``.

    Example:
        >>> spare_slots(2**20, 2), spare_slots(2**30, 2)
        (30, 0)
    """
    return max(0, SMALL_BYTES // whole_pages(max(capacity, 1)) - slots)


def kept_layers(specs: Sequence[LayerSpec], available: int | None) -> list[int]:
    """The layers of which copies are kept: the smallest first, as many as fit into half of the available memory.

    Layers without copies are named in a log message.

    Args:
        specs: the layers.
        available: bytes of memory that the snapshots leave; None if unknown.

    Returns:
        Indices of the layers, ascending.

    Example:
        >>> specs = [LayerSpec("fc", "Linear", (1000, size), "float32", ((), (0,), (1,))) for size in (10, 1000)]
        >>> kept_layers(specs, 2**20)
        [0]
    """
    sizes = [kept_bytes(spec.shape, spec.storage_dtype) for spec in specs]
    if available is None:
        return list(range(len(specs)))
    left, kept = KEPT_SHARE * available, []
    for index in sorted(range(len(specs)), key=sizes.__getitem__):
        left -= sizes[index]
        if left >= 0:
            kept.append(index)
    if len(kept) < len(specs):
        missing = ", ".join(spec.name for index, spec in enumerate(specs) if index not in set(kept))
        _log.warning(
            "updates: no columns about changes for %s: copies of all layers need %.0f MiB, %.0f MiB are allowed",
            missing,
            sum(sizes) / 2**20,
            KEPT_SHARE * available / 2**20,
        )
    return sorted(kept)
