"""Cost of each output: bytes, time in the training thread, and CPU time of its process and of the worker.

    python benchmarks/outputs.py [--layers 500] [--snapshots 16]

A run with many small layers writes to JSON lines, to TensorBoard with our writer and with one of torch, and to W&B and
MLflow on the local disk where they are installed. The layers are small to keep their analysis short; the cost of an
output does not depend on their size. The reports for the page are always in event files: their bytes are counted there,
and the time to encode them is measured alone. This makes the table of docs/tensorboard.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event

import ww_callbacks as ww
from ww_callbacks.outputs.packed import pack
from ww_callbacks.outputs.spectra_protos import PLUGIN, report_summary
from ww_callbacks.outputs.tensorboard import records, writer_output
from ww_callbacks.outputs.tensorboard_protos import scalar_summary

HEADER = (
    "output", "written per snapshot", "of it for the page", "training thread per snapshot",
    "CPU of its process per snapshot", "worker CPU per snapshot",
)  # fmt: skip


def network(layers: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"block{i:03d}.fc": rng.standard_normal((80, 60)).astype(np.float32) for i in range(layers)}


def measure(name: str, layers: int, snapshots: int, folder: Path, **arguments: Any) -> ww.Monitor:
    """Train with one kind of output and print one row of the table."""
    weights, seconds, began = network(layers), 0.0, time.process_time()
    with ww.Monitor(weights, every_n_steps=1, randomize=False, **arguments) as monitor:
        for step in range(1, snapshots + 1):
            for weight in weights.values():
                weight += 0.001
            while len(monitor.history) < step:  # wait until all results are published
                seconds += duration(monitor.step, step - 1)
                time.sleep(0.005)
            seconds += duration(monitor.step, step)
    status, number, process = monitor.status(), len(monitor.history), time.process_time() - began
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(
        f"| {name} | {written / number / 1024:.0f} KiB | {bytes_of_the_page(folder) / number / 1024:.0f} KiB "
        f"| {1e3 * seconds / number:.0f} ms | {1e3 * process / number:.0f} ms | {status.worker_cpu / number:.2f} s |",
        flush=True,
    )
    return monitor


def duration(call: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def bytes_of_the_page(folder: Path) -> int:
    """The values for our page in the event files of a folder."""
    total = 0
    for path in folder.rglob("*tfevents*"):
        with path.open("rb") as file:
            values = (value for data in records(file) for value in Event.FromString(data).summary.value)
            total += sum(value.ByteSize() for value in values if value.metadata.plugin_data.plugin_name == PLUGIN)
    return total


def print_encoding(monitor: ww.Monitor, layers: int) -> None:
    """The time to encode one report for the page, which a thread does."""
    report, metrics = monitor.history[-1], monitor.published.metrics
    alone = [duration(lambda: scalar_summary(metrics).SerializeToString()) for _ in range(50)]
    whole = [duration(lambda: report_summary(report, metrics, 0.0).SerializeToString()) for _ in range(50)]
    size = len(pack(report, metrics, 0.0)) / layers
    print(
        f"\nOne report of {layers} layers: {size:.0f} bytes per layer; encoded in {1e3 * np.median(whole):.1f} ms, "
        f"its means alone in {1e3 * np.median(alone):.1f} ms (medians)."
    )


@contextmanager
def torch_output(folder: str) -> Iterator[Any]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        yield writer_output(writer)


@contextmanager
def wandb_output(folder: str) -> Iterator[ww.WandbOutput]:
    import wandb

    with wandb.init(dir=folder, mode="offline", project="benchmark"):
        yield ww.WandbOutput()


@contextmanager
def mlflow_output(folder: str) -> Iterator[ww.MlflowOutput]:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    import mlflow

    mlflow.set_tracking_uri(f"file:{folder}/runs")
    with mlflow.start_run():
        yield ww.MlflowOutput()


PASSED: dict[str, tuple[str, Callable[[str], AbstractContextManager[Any]], dict[str, Any]]] = {
    "TensorBoard, a SummaryWriter of torch, `figures=False`": ("torch", torch_output, {"figures": False}),
    "W&B offline": ("wandb", wandb_output, {}),
    "MLflow, local files": ("mlflow", mlflow_output, {}),
}
"""Row → package that it needs, its output, and arguments of the monitor."""

PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "none": lambda folder: {},
    "JSON lines": lambda folder: {"jsonl": Path(folder) / "run.jsonl"},
    "TensorBoard, `figures=False`": lambda folder: {"log_dir": folder, "figures": False},
    "TensorBoard with plots": lambda folder: {"log_dir": folder},
}
"""Row → arguments of the monitor."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=500)
    parser.add_argument("--snapshots", type=int, default=16)
    given = parser.parse_args()
    began = time.perf_counter()
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for name, arguments in PLACES.items():
        with tempfile.TemporaryDirectory() as folder:
            monitor = measure(name, given.layers, given.snapshots, Path(folder), **arguments(folder))
            loading = duration(EventAccumulator(f"{folder}/ww").Reload) if "plots" in name else None
    for name, (package, output_in, more) in PASSED.items():
        if find_spec(package) is not None:
            with tempfile.TemporaryDirectory() as folder, output_in(folder) as output:
                measure(name, given.layers, given.snapshots, Path(folder), outputs=[output], **more)
    print_encoding(monitor, given.layers)
    print(f"TensorBoard's reader loaded the run with plots in {loading:.1f} s.")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
