"""Cost of each output: bytes per snapshot, time in the training thread, and CPU time of the worker for plots.

    python benchmarks/outputs.py [--layers 500] [--snapshots 60]

A run with many small layers writes to TensorBoard (with and without plots), to JSON lines, and to W&B and MLflow on the
local disk where they are installed. The layers are small to keep their analysis short; the cost of an output does not
depend on their size.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ww_callbacks as ww


def network(layers: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"block{i:03d}.fc": rng.standard_normal((80, 60)).astype(np.float32) for i in range(layers)}


def measure(name: str, layers: int, snapshots: int, folder: Path, **arguments: object) -> None:
    """Train with one kind of output and print one row of the table."""
    weights, seconds = network(layers), []
    with ww.Monitor(weights, every_n_steps=1, randomize=False, **arguments) as monitor:
        for step in range(1, snapshots + 1):
            for weight in weights.values():
                weight += 0.001
            while len(monitor.history) < step:  # wait until all results are published
                start = time.perf_counter()
                published = len(monitor.history)
                monitor.step(step - 1)
                if len(monitor.history) > published:
                    seconds.append(time.perf_counter() - start)
                time.sleep(0.005)
            monitor.step(step)
    status = monitor.status()
    number = len(monitor.history)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(
        f"| {name} | {layers} | {number} | {size / 2**20:.1f} MiB | {size / number / 1024:.0f} KiB "
        f"| {1e3 * np.median(seconds):.0f} ms | {status.worker_cpu / number:.2f} s |",
        flush=True,
    )


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


SERVICES: dict[str, Callable] = {"wandb": wandb_output, "mlflow": mlflow_output}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=500)
    parser.add_argument("--snapshots", type=int, default=60)
    given = parser.parse_args()
    print(
        "| output | layers | snapshots | written | per snapshot | training thread, median | worker CPU per snapshot |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, arguments in (
        ("none", {}),
        ("JSON lines", {"jsonl": True}),
        ("TensorBoard, scalars", {"figures": False}),
        ("TensorBoard, with plots", {"figures": True}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            place = {} if name == "none" else {"log_dir": folder}
            if name == "JSON lines":
                place = {"jsonl": Path(folder) / "run.jsonl"}
                arguments = {}
            measure(name, given.layers, given.snapshots, Path(folder), **place, **arguments)
            if name.endswith("plots"):
                start = time.perf_counter()
                EventAccumulator(f"{folder}/ww").Reload()
                print(f"\nTensorBoard's reader loaded this run in {time.perf_counter() - start:.1f} s.")
    for package, output_in in SERVICES.items():
        if find_spec(package) is not None:
            with tempfile.TemporaryDirectory() as folder, output_in(folder) as output:
                measure(package, given.layers, given.snapshots, Path(folder), outputs=[output])


if __name__ == "__main__":
    main()
