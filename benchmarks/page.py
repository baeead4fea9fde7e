"""Cost of the page: bytes in the event file, time and memory of the server, size of the one file.

    python benchmarks/page.py [--layers 200] [--reports 1000] [--runs 20] [--keep FOLDER]

The reports are made from the spectra of a few random matrices, with other values for each layer and step, because an
analysis of 200,000 layers would take hours. ``--keep`` leaves the runs in a folder, to be opened with
``ww-callbacks serve``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from analysis import processor

import ww_callbacks as ww
from ww_callbacks.outputs.packed import pack
from ww_callbacks.outputs.tensorboard import TensorBoardOutput
from ww_callbacks.page.api import Api
from ww_callbacks.page.runs import Runs
from ww_callbacks.page.single import page_file
from ww_callbacks.report import Report
from ww_callbacks.report.layer import FIELDS
from ww_callbacks.report.row import changed

KINDS = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "mlp.gate", "mlp.up", "mlp.down", "norm")
EVERY = 100


def reports(layers: int, count: int) -> Iterator[Report]:
    """Reports of a run with plausible values, whose histograms differ in their counts."""
    rng = np.random.default_rng(0)
    weights = {str(size): rng.standard_normal((300, size)) * (1 + rng.random((300, 1))) for size in range(200, 216)}
    known = ww.analyze(weights).layers
    columns = [name for name, value in zip(FIELDS, known[0], strict=True) if isinstance(value, float)]
    for number in range(count):
        rows = []
        for index in range(layers):
            layer = known[index % len(known)]
            noise = 1 + 0.01 * rng.standard_normal(len(columns))
            values = {
                name: float(value) * factor
                for name, factor in zip(columns, noise, strict=True)
                if (value := getattr(layer, name)) is not None
            }
            counts = rng.poisson(np.maximum(layer.histogram.counts, 0.2))
            shuffled = rng.poisson(np.maximum(layer.histogram.rand_counts, 0.2))
            values["histogram"] = type(layer.histogram).of(
                layer.histogram.low, layer.histogram.high, counts.tolist(), shuffled.tolist()
            )
            values |= {"alpha": 6 - 3 * number / count + 0.2 * noise[0], "reliable": number > count // 3}
            name = f"model.layers.{index // len(KINDS)}.{KINDS[index % len(KINDS)]}"
            rows.append(changed(layer, name=name, step=number * EVERY, **values))
        yield Report.of(rows, number * EVERY)


def write(folder: Path, layers: int, count: int) -> int:
    """Write a run and return the number of bytes of its reports."""
    output = TensorBoardOutput(folder / "ww")
    size = 0
    for report in reports(layers, count):
        metrics = {f"ww/{key}": value for key, value in report.summary().items()} | {"ww/lag_steps": 0.0}
        size += len(pack(report, metrics, 0.0))
        output.write(report, metrics, time.time())
        output.flush()
    output.close()
    return size


def timed(call: Callable[[], Any], repeats: int = 5) -> tuple[float, Any]:
    """Median seconds, and the last result."""
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=200)
    parser.add_argument("--reports", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    print(processor())
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        size = write(folder / "run00", given.layers, given.reports)
        cells = given.layers * given.reports
        print(f"reports in the event file: {size / 2**20:.1f} MiB, {size / cells:.0f} bytes per layer and step")
        (file,) = (folder / "run00" / "ww").iterdir()
        for number in range(1, given.runs):
            (other := folder / f"run{number:02d}" / "ww").mkdir(parents=True, exist_ok=True)
            if not (other / file.name).exists():
                (other / file.name).hardlink_to(file)
        measure(folder, given.layers, given.reports)


def measure(folder: Path, layers: int, count: int) -> None:
    """Print the times and the memory of the server."""
    process = psutil.Process()
    before = process.memory_info().rss
    runs = Runs(folder)
    api = Api(runs, "benchmark")
    ask = api.answer
    first, _ = timed(lambda: ask("api/run", "id=run00"), 1)
    again, answer = timed(lambda: ask("api/run", "id=run00"))
    print(f"first answer for a run: {first:.2f} s; later ones: {1e3 * again:.0f} ms, {len(answer.body) / 1024:.0f} KiB")
    newest, answer = timed(lambda: ask("api/run", f"id=run00&from={count - 1}"))
    print(f"one more report: {1e3 * newest:.1f} ms, {len(answer.body) / 1024:.0f} KiB")
    kept, answer = timed(lambda: ask("api/column", "id=run00&name=alpha"))
    print(f"the column alpha: {1e3 * kept:.1f} ms, {len(answer.body) / 1024:.0f} KiB")
    other, _ = timed(lambda: ask("api/column", "id=run00&name=stable_rank"), 1)
    print(f"the first other column: {other:.2f} s")
    cell, answer = timed(lambda: ask("api/cell", f"id=run00&layer={layers // 2}&report={count // 2}"))
    print(f"a cell: {1e3 * cell:.1f} ms, {len(answer.body)} bytes")
    print(f"memory for this run, all columns read: {(process.memory_info().rss - before) / 2**20:.0f} MiB")
    seconds, page = timed(lambda: page_file({"run00": runs.get("run00").run}, "benchmark"), 1)
    data = json.loads(page[page.index('id="ww-data">') + 13 :].partition("</script>")[0])
    columns, cells = len(data["columns"]["run00"]), len(data["run"]["run00"]["cells"])
    shown = f"{columns} columns, spectra of {cells} of {count} reports"
    print(f"one file: {len(page) / 2**20:.1f} MiB, {seconds:.1f} s, {shown}")
    start, before = time.perf_counter(), process.memory_info().rss
    for identity in runs.identities:
        runs.get(identity)
    read = time.perf_counter() - start
    print(f"{len(runs.identities) - 1} more runs: {read:.1f} s, {(process.memory_info().rss - before) / 2**20:.0f} MiB")
    listed, _ = timed(lambda: ask("api/runs"))
    print(f"list of {len(runs.identities)} runs: {1e3 * listed:.0f} ms")


if __name__ == "__main__":
    main()
