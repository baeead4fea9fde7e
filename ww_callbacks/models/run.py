"""Analysis of layers in this process or in worker processes, with few layers in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ww_callbacks.analysis import LayerSpec, Settings
from ww_callbacks.progress import Bar, progress_bar
from ww_callbacks.report import LayerReport
from ww_callbacks.weights import Layer
from ww_callbacks.worker.process_pool import ProcessPool
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer
from ww_callbacks.worker.task import ANALYSES, Analysis, make_task, read_answer, run_task

Running = dict[Future[Message], tuple[int, int]]
"""Running tasks: the position of each among the layers, and the slot of its weights."""


class Analysed(NamedTuple):
    """The results of a layer, and a digest of its weights; empty if the analysis failed."""

    report: LayerReport
    digest: str


class Workers:
    """Worker processes for the layers of a model, and for later models with the same layers.

    Args:
        specs: of the layers that are analysed.
        count: number of processes.

    Raises:
        MemoryError: there is not enough memory for ``count`` copies of the largest layer.
    """

    def __init__(self, specs: Sequence[LayerSpec], count: int) -> None:
        arrays = [(spec.shape, spec.storage_dtype) for spec in specs]
        largest = max(SnapshotBuffer.nbytes_of([array]) for array in arrays)
        self._index = {spec: number for number, spec in enumerate(specs)}
        with ExitStack() as stack:
            self._memory = stack.enter_context(closing(SnapshotBuffer(arrays, count, largest)))
            self._pool = stack.enter_context(ProcessPool(self._memory, workers=count, layer_timeout=math.inf))
            self._stack = stack.pop_all()

    def fit(self, specs: Sequence[LayerSpec]) -> bool:
        """Whether they were made for these layers."""
        return list(self._index) == list(specs)

    def close(self) -> None:
        """Stop the processes and free the memory; they then fit no layers."""
        self._index.clear()
        self._stack.close()

    def run(self, layers: Mapping[int, Layer], tasks: Mapping[int, Message], bar: Bar) -> dict[int, Analysed]:
        """Analyse layers, the largest first, so that no worker starts one when the others have finished.

        Args:
            layers: position → layer; one is read when a worker is free.
            tasks: position → what is done with it, see :func:`ww_callbacks.worker.task.run_task`.
            bar: of the progress.

        Raises:
            Exception: what reading a layer raises. The processes are stopped then.
        """
        found: dict[int, Analysed] = {}
        running: Running = {}
        try:
            for position in sorted(layers, key=lambda position: _spec(layers[position]).work, reverse=True):
                if not self._memory.make_room():
                    found |= _collect(running, self._memory, layers, bar)
                layer, spec = layers[position], _spec(layers[position])
                bar.begin(layer.name)
                slot = self._memory.take([partial(_read, layer)], [self._index[spec]])
                assert slot is not None
                stored = self._memory.array(slot, self._index[spec])
                running[self._pool.submit(run_task, tasks[position], stored)] = position, slot
            while running:
                found |= _collect(running, self._memory, layers, bar)
        except BaseException:  # Ctrl-C does not wait for the layers under way
            self.close()
            raise
        return found


def run_layers(
    layers: Sequence[Layer],
    settings: Settings,
    *,
    workers: int = 0,
    progress: bool = False,
    title: str = "analysing",
    analysis: Analysis = "layer",
) -> list[LayerReport]:
    """Analyse layers. Each is read just before its analysis.

    Args:
        layers: the layers; those without a matrix are reported as skipped.
        settings: settings of the analysis.
        workers: number of worker processes; 0 to analyse in this process.
        progress: show a progress bar in a terminal.
        title: title of the bar.
        analysis: "layer", or "change" for the layers of :func:`ww_callbacks.models.baseline.pairs`.

    Returns:
        One report per layer, in the order of the layers.

    Raises:
        MemoryError: there is not enough memory for ``workers`` copies of the largest layer.
        ImportError: ``progress`` is True and rich is not installed.
    """
    reports = {position: layer.skip_report(None) for position, layer in enumerate(layers) if layer.spec is None}
    found = {position: layer for position, layer in enumerate(layers) if layer.spec is not None}
    specs = [_spec(layer) for layer in found.values()]
    with progress_bar(title, sum(spec.work for spec in specs), shown=progress) as bar:
        if workers and specs:
            with closing(Workers(specs, min(workers, len(specs)))) as started:
                made = [make_task(spec, settings, None, analysis=analysis) for spec in specs]
                analysed = started.run(found, dict(zip(found, made, strict=True)), bar)
            reports |= {position: each.report for position, each in analysed.items()}
        else:
            for position, layer in found.items():
                bar.begin(layer.name)
                reports[position] = ANALYSES[analysis](_spec(layer), _read(layer), settings)
                bar.end(_spec(layer).work)
    return [reports[position] for position in range(len(layers))]


def _collect(
    running: Running, memory: SnapshotBuffer, layers: Mapping[int, Layer], bar: Bar
) -> Iterator[tuple[int, Analysed]]:
    """Wait for the next results."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        position, slot = running.pop(future)
        memory.release(slot)
        spec = _spec(layers[position])
        bar.end(spec.work)
        answer = future.result()
        yield position, Analysed(read_answer(answer, spec, None), str(answer.get("digest", "")))


def _spec(layer: Layer) -> LayerSpec:
    assert layer.spec is not None
    return layer.spec


def _read(layer: Layer) -> NDArray[Any]:
    assert layer.read is not None
    return layer.read()
