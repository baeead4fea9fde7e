"""Following a run on a cluster: speed-up by workers, bytes through the scheduler, overhead of many layers.

    python benchmarks/follow_cluster.py speedup              1, 2 and 4 processes, on Dask and without
    python benchmarks/follow_cluster.py overhead             10,000 layers whose tasks sleep, and 10,000 small layers
    python benchmarks/follow_cluster.py overhead --layers 500 --repeats 1

``speedup`` analyses the same checkpoint with each number of workers, each with one thread, in turn and repeatedly. It
prints medians of the ratios to one worker of the same kind in the same repeat. More workers than cores cannot be
faster. Nothing else may run.

``overhead`` submits tasks that sleep and return a known answer, and then analyses real layers of 32 × 24. The scheduler
of a ``LocalCluster`` runs in this process, so CPU time of this process is that of client and scheduler together.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - after the number of threads is set
from distributed import Client, LocalCluster  # noqa: E402

from ww_callbacks.analysis import LayerSpec, Settings  # noqa: E402
from ww_callbacks.following import cluster  # noqa: E402
from ww_callbacks.following.running import Runner  # noqa: E402
from ww_callbacks.following.work import Work  # noqa: E402
from ww_callbacks.progress import progress_bar  # noqa: E402
from ww_callbacks.weights import Layer, find_layers  # noqa: E402
from ww_callbacks.worker import worker_process  # noqa: E402
from ww_callbacks.worker.protocol import Message  # noqa: E402
from ww_callbacks.worker.task import make_task, run_task  # noqa: E402

worker_process.NICENESS = 0  # as Dask's workers

SMALL = (32, 24)
SLEEP = 0.01


def write(folder: str, count: int, shape: tuple[int, int]) -> Path:
    """A checkpoint of random float32 layers."""
    rng = np.random.default_rng(0)
    path = Path(folder) / "step-1.npz"
    np.savez(path, **{f"layers.{i}.weight": rng.standard_normal(shape, dtype=np.float32) for i in range(count)})
    return path


def layers_of(path: Path) -> dict[int, Layer]:
    return dict(enumerate(find_layers(path)))


@contextmanager
def dask(workers: int) -> Iterator[Client]:
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as started,
        Client(started) as client,
    ):
        yield client


def analyse(runner: Runner, path: Path, layers: dict[int, Layer]) -> float:
    """Seconds of an analysis."""
    specs = [layer.spec for layer in layers.values() if layer.spec is not None]
    start = time.perf_counter()
    with progress_bar("", 1, shown=False) as bar:
        found = runner.analyse(path, layers, specs, bar)
    assert all(each.report.status == "ok" for each in found.values())
    return time.perf_counter() - start


def speedup(count: int, size: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = write(folder, count, (size, size // 2))
        layers = layers_of(path)
        runners = {f"workers={number}": Runner(Work(workers=number)) for number in (1, 2)}
        clients = {number: stack.enter_context(dask(number)) for number in (1, 2, 4)}
        runners |= {f"{number} of Dask": Runner(Work(executor=client)) for number, client in clients.items()}
        for runner in runners.values():
            stack.callback(runner.close)
        seconds: dict[str, list[float]] = {}
        for repeat in range(repeats + 1):
            for name, runner in runners.items():
                seconds.setdefault(name, []).append(analyse(runner, path, layers))
            if not repeat:  # the first one starts processes and imports
                seconds.clear()
    print(f"{count} layers of {size} × {size // 2}, {repeats} repeats")
    for name, found in seconds.items():
        base = seconds["1 of Dask" if "Dask" in name else "workers=1"]
        ratio = statistics.median(one / several for one, several in zip(base, found, strict=True))
        print(f"  {name}: median {statistics.median(found):.1f} s, {ratio:.2f} times as fast as one")
    ratio = statistics.median(a / b for a, b in zip(seconds["1 of Dask"], seconds["workers=1"], strict=True))
    print(f"  one worker of Dask takes {ratio:.2f} times as long as one of ours")


@cache
def _known_answer() -> Message:
    spec = LayerSpec("fc", "Linear", SMALL, "float32", ((), (0,), (1,)))
    return run_task(make_task(spec, Settings(), None), np.random.default_rng(0).standard_normal(SMALL, np.float32))


def sleep(*_: Any) -> Message:
    """A task in place of an analysis."""
    time.sleep(SLEEP)
    return _known_answer()


def overhead(count: int, workers: int, repeats: int) -> None:
    from follow_cluster import sleep  # by its module, as the package's own tasks: otherwise its code is sent each time

    with tempfile.TemporaryDirectory() as folder, dask(workers) as client:
        path = write(folder, count, SMALL)
        layers = layers_of(path)
        with mock.patch.object(cluster, "read_and_run", sleep):
            ideal = count * SLEEP / workers
            _print_overhead(f"tasks of {1000 * SLEEP:g} ms", client, path, layers, ideal, repeats)
        _print_overhead(f"layers of {SMALL[0]} × {SMALL[1]}", client, path, layers, None, repeats)


def _print_overhead(
    title: str, client: Client, path: Path, layers: dict[int, Layer], ideal: float | None, repeats: int
) -> None:
    count = len(layers)
    runner = Runner(Work(executor=client))
    analyse(runner, path, dict(list(layers.items())[: 2 * len(client.nthreads())]))
    cpu, wall = [], []
    for _ in range(repeats):
        start = time.process_time()
        wall.append(analyse(runner, path, layers))
        cpu.append(time.process_time() - start)
    print(
        f"{count} {title} on {len(client.nthreads())} workers: {statistics.median(wall):.1f} s, "
        f"{1000 * statistics.median(cpu) / count:.2f} ms of CPU time per layer in client and scheduler"
        + (f", {1000 * (statistics.median(wall) - ideal) / count:.2f} ms longer than the tasks" if ideal else ""),
        flush=True,
    )


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speedup", "overhead"])
    parser.add_argument("--layers", type=int, help="layers (default: 24 or 10000)")
    parser.add_argument("--size", type=int, default=1536, help="rows of the layers of speedup (default: 1536)")
    parser.add_argument("--workers", type=int, default=2, help="workers of overhead (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="default: 5")
    arguments = parser.parse_args()
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    if arguments.part == "speedup":
        speedup(arguments.layers or 24, arguments.size, arguments.repeats)
    else:
        overhead(arguments.layers or 10_000, arguments.workers, arguments.repeats)


if __name__ == "__main__":
    main()
