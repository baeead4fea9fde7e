"""Copies of the weights on their way through the worker, and their reports in the order of steps."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from itertools import islice

from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer
from ww_callbacks.engine.pending import Pending
from ww_callbacks.snapshot import SnapshotBuffer
from ww_callbacks.weights import Layer
from ww_callbacks.worker.process import WorkerProcess


class Engine:
    """Takes snapshots and has them analysed. Used from the training thread only.

    Args:
        settings: how layers are analysed.
        slots: snapshots that can be under way at the same time.
        layer_timeout: seconds that the analysis of one layer may take.
    """

    def __init__(self, settings: Settings, *, slots: int, layer_timeout: float) -> None:
        self._settings, self._slots, self._layer_timeout = settings, slots, layer_timeout
        self._line: _Line | None = None
        self._under_way: deque[Pending] = deque()

    def __len__(self) -> int:
        """Snapshots under way."""
        return len(self._under_way)

    @property
    def broken(self) -> str:
        """Why nothing is analysed any more; empty while something can be."""
        return self._line.worker.broken if self._line is not None else ""

    def fits(self, layers: Sequence[Layer]) -> bool:
        """Whether memory and worker are those of these layers; others need a :meth:`renew` first."""
        return self._line is not None and self._line.specs == _specs(layers)

    def renew(self, layers: Sequence[Layer]) -> None:
        """Memory and a worker for these layers; what is still under way is dropped.

        Raises:
            MemoryError: there is not enough memory for the snapshots.
        """
        self.close()
        self._line = _Line(_specs(layers), self._slots, self._layer_timeout)

    def take(self, layers: tuple[Layer, ...], step: int, skipped: int) -> bool:
        """Copy the weights and hand them over, the largest layer first.

        Args:
            layers: every layer of the model, analysed or not; those that memory and worker are for.
            step: finished optimizer steps.
            skipped: snapshots skipped so far.

        Returns:
            Whether there was a free slot.
        """
        assert self._line is not None
        line = self._line
        positions = [position for position, layer in enumerate(layers) if layer.spec is not None]
        slot = line.buffer.take([layer.read for layer in layers if layer.read is not None])
        if slot is None:
            return False
        wall_time = time.time()
        futures = {
            positions[index]: line.worker.submit(
                analyze_layer, line.specs[index], line.buffer.array(slot, index), self._settings, step
            )
            for index in line.order
        }
        self._under_way.append(Pending(step, wall_time, skipped, slot, layers, futures))
        return True

    def wait(self, count: int, patience: float) -> None:
        """Wait until the results of the first ``count`` snapshots are in, at most ``patience`` seconds."""
        awaited = [future for pending in islice(self._under_way, count) for future in pending.futures.values()]
        wait(awaited, timeout=min(max(patience, 0.0), threading.TIMEOUT_MAX))

    def finished(self) -> Iterator[Pending]:
        """The snapshots whose results are in, each once, in the order of their steps."""
        while self._under_way and self._under_way[0].done():
            pending = self._under_way.popleft()
            if self._line is not None:
                self._line.buffer.release(pending.slot)
            yield pending

    def close(self) -> None:
        """End the worker at once and free the memory; what is under way is dropped."""
        self._under_way.clear()
        line, self._line = self._line, None
        if line is not None:
            line.close()


class _Line:
    """Memory and worker for one set of layers."""

    def __init__(self, specs: Sequence[LayerSpec], slots: int, layer_timeout: float) -> None:
        self.specs = list(specs)
        self.order = sorted(range(len(specs)), key=lambda index: _cost(specs[index]), reverse=True)
        self.buffer = SnapshotBuffer([(spec.shape, spec.storage_dtype) for spec in specs], slots)
        self.worker = WorkerProcess(self.buffer, layer_timeout=layer_timeout)

    def close(self) -> None:
        self.worker.shutdown()
        self.buffer.close()


def _specs(layers: Sequence[Layer]) -> list[LayerSpec]:
    return [layer.spec for layer in layers if layer.spec is not None]


def _cost(spec: LayerSpec) -> int:
    pooled, rows, columns = spec.matrix_shape
    return pooled * max(rows, columns) * min(rows, columns) ** 2
