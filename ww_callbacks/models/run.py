"""Layers through the analysis: here, or in worker processes, with memory for a few layers at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer
from ww_callbacks.progress import Bar, progress_bar
from ww_callbacks.report import LayerReport
from ww_callbacks.snapshot import SnapshotBuffer
from ww_callbacks.weights import Layer
from ww_callbacks.worker.process import WorkerProcess

Running = dict[Future[LayerReport], tuple[int, int]]
"""What runs: its position among the layers, and the slot its weights lie in."""


def run_layers(
    layers: Sequence[Layer],
    settings: Settings,
    *,
    workers: int = 0,
    progress: bool = False,
    title: str = "analysing",
) -> list[LayerReport]:
    """Analyse layers, reading each when its turn comes.

    Args:
        layers: analysed or not; the latter are reported as skipped.
        settings: how to analyse.
        workers: processes to analyse in; 0 for this one.
        progress: show a bar where there is a terminal.
        title: what the bar says.

    Returns:
        One report per layer, in their order.

    Raises:
        MemoryError: there is not enough memory for ``workers`` copies of the largest layer.
        ImportError: ``progress`` is wanted and rich is not installed.
    """
    reports = {position: layer.skip_report(None) for position, layer in enumerate(layers) if layer.spec is None}
    specs = {position: layer.spec for position, layer in enumerate(layers) if layer.spec is not None}
    with progress_bar(title, sum(map(cost, specs.values())), shown=progress) as bar:
        if workers and specs:
            # the largest first, so that no worker is left alone with one of them at the end
            order = sorted(specs, key=lambda position: cost(specs[position]), reverse=True)
            reports |= _in_workers(layers, order, settings, min(workers, len(order)), bar)
        else:
            for position, spec in specs.items():
                bar.begin(spec.name)
                reports[position] = analyze_layer(spec, _read(layers[position]), settings)
                bar.end(cost(spec))
    return [reports[position] for position in range(len(layers))]


def cost(spec: LayerSpec) -> int:
    """Multiplications of the eigenvalues, the measure of how long a layer takes."""
    pooled, rows, columns = spec.matrix_shape
    return pooled * max(rows, columns) * min(rows, columns) ** 2


def _in_workers(
    layers: Sequence[Layer], order: Sequence[int], settings: Settings, workers: int, bar: Bar
) -> dict[int, LayerReport]:
    """One slot per worker; a layer is read when a worker is free."""
    largest = max(_spec(layers[position]).nbytes for position in order)
    reports: dict[int, LayerReport] = {}
    running: Running = {}
    with ExitStack() as stack:
        memory = stack.enter_context(closing(SnapshotBuffer([((largest,), np.dtype(np.uint8))], workers)))
        pool = [stack.enter_context(WorkerProcess(memory, layer_timeout=math.inf)) for _ in range(workers)]
        free = list(range(workers))
        for position in order:
            if not free:
                reports |= _collect(running, free, layers, bar)
            layer, slot = layers[position], free.pop()
            bar.begin(layer.name)
            stored = _copy(memory, slot, layer)
            running[pool[slot].submit(analyze_layer, _spec(layer), stored, settings)] = position, slot
        while running:
            reports |= _collect(running, free, layers, bar)
    return reports


def _collect(running: Running, free: list[int], layers: Sequence[Layer], bar: Bar) -> Iterator[tuple[int, LayerReport]]:
    """Wait for the next results."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        position, slot = running.pop(future)
        free.append(slot)
        bar.end(cost(_spec(layers[position])))
        yield position, future.result()


def _copy(memory: SnapshotBuffer, slot: int, layer: Layer) -> NDArray[Any]:
    spec = _spec(layer)
    stored = memory.array(slot, 0)[: spec.nbytes].view(spec.storage_dtype).reshape(spec.shape)
    np.copyto(stored, _read(layer))
    return stored


def _spec(layer: Layer) -> LayerSpec:
    assert layer.spec is not None
    return layer.spec


def _read(layer: Layer) -> NDArray[Any]:
    assert layer.read is not None
    return layer.read()
