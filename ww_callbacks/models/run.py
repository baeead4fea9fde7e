"""Analysis of layers in this process or in worker processes, with few layers in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

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
    specs = {position: layer.spec for position, layer in enumerate(layers) if layer.spec is not None}
    with progress_bar(title, sum(spec.work for spec in specs.values()), shown=progress) as bar:
        if workers and specs:
            # the largest first, so that no worker starts one when the others have finished
            order = sorted(specs, key=lambda position: specs[position].work, reverse=True)
            reports |= _in_workers(layers, order, settings, min(workers, len(order)), bar, analysis)
        else:
            for position, spec in specs.items():
                bar.begin(spec.name)
                reports[position] = ANALYSES[analysis](spec, _read(layers[position]), settings)
                bar.end(spec.work)
    return [reports[position] for position in range(len(layers))]


def _in_workers(
    layers: Sequence[Layer], order: Sequence[int], settings: Settings, workers: int, bar: Bar, analysis: Analysis
) -> dict[int, LayerReport]:
    """One slot per worker; a layer is read when a slot is free."""
    arrays = {position: (_spec(layers[position]).shape, _spec(layers[position]).storage_dtype) for position in order}
    index = {position: number for number, position in enumerate(arrays)}
    largest = max(SnapshotBuffer.nbytes_of([array]) for array in arrays.values())
    reports: dict[int, LayerReport] = {}
    running: Running = {}
    with ExitStack() as stack:
        memory = stack.enter_context(closing(SnapshotBuffer(list(arrays.values()), workers, largest)))
        pool = stack.enter_context(ProcessPool(memory, workers=workers, layer_timeout=math.inf))
        for position in order:
            if not memory.make_room():
                reports |= _collect(running, memory, layers, bar)
            layer = layers[position]
            bar.begin(layer.name)
            slot = memory.take([partial(_read, layer)], [index[position]])
            assert slot is not None
            stored = memory.array(slot, index[position])
            task = make_task(_spec(layer), settings, None, analysis=analysis)
            running[pool.submit(run_task, task, stored)] = position, slot
        while running:
            reports |= _collect(running, memory, layers, bar)
    return reports


def _collect(
    running: Running, memory: SnapshotBuffer, layers: Sequence[Layer], bar: Bar
) -> Iterator[tuple[int, LayerReport]]:
    """Wait for the next results."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        position, slot = running.pop(future)
        memory.release(slot)
        spec = _spec(layers[position])
        bar.end(spec.work)
        yield position, read_answer(future.result(), spec, None)


def _spec(layer: Layer) -> LayerSpec:
    assert layer.spec is not None
    return layer.spec


def _read(layer: Layer) -> NDArray[Any]:
    assert layer.read is not None
    return layer.read()
