"""Cost of monitoring for the training process.

    python benchmarks/overhead.py                     all parts
    python benchmarks/overhead.py snapshot step       a selection
    python benchmarks/overhead.py --quick hooks       with short runs

Parts:
    snapshot       time of a snapshot compared with copying the same bytes to warm memory
    step           a step without a snapshot
    executors      snapshot() with the worker process and with a client of Dask, and the longest stall until its results
    results        time in the training thread, and CPU time of the other threads, per result of many small layers
    hooks          time inside the monitor ÷ time of training: exact on a busy machine too
    busy           the same with wide layers and bootstrap intervals, so that the worker is active most of the time
    throughput     steps per second with ÷ without, alternating pairs of runs; needs an otherwise idle machine
    priority       priorities of the worker if training uses every core; needs an otherwise idle machine
    weightwatcher  the same schedule with WeightWatcher called in the training loop

The trainings are seeded torch loops over an MLP with 20 MiB and a convolutional network with 24 MiB of analysed
weights; the wide ones have 128 and 72 MiB.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from torch import nn

import ww_callbacks as ww
from ww_callbacks.report import Report
from ww_callbacks.worker import worker_process
from ww_callbacks.worker.deadline import cpu_seconds
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer

NETWORKS = ("mlp", "conv")
EVERY = (10, 50, 200)


@dataclass(frozen=True)
class Size:
    """Sizes of the parts."""

    seconds: float = 20.0
    copies: int = 15
    pairs: int = 7
    threads: tuple[int, ...] = (1, 2)
    networks: tuple[str, ...] = NETWORKS
    calls: int = 2  # calls of WeightWatcher


QUICK = Size(seconds=4.0, copies=7, calls=1)

Hook = Callable[[int], None]


def network(name: str, wide: bool = False) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if name == "mlp":
        side, depth, batch = (4096, 2, 32) if wide else (1024, 5, 256)
        hidden = [part for _ in range(depth) for part in (nn.Linear(side, side), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(side, 10)), torch.randn(batch, side)
    channels, batch, pixels = ((3, 1024, 1024, 1024), 1, 16) if wide else ((3, 128, 256, 512, 512, 512), 8, 32)
    blocks = [
        part
        for before, after in pairwise(channels)
        for part in (nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    ]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10))
    return nn.Sequential(*blocks, *head), torch.randn(batch, 3, pixels, pixels)


@dataclass
class Run:
    """One training."""

    steps: int
    seconds: float
    hooks: float
    longest: float

    @property
    def rate(self) -> float:
        return self.steps / self.seconds

    @property
    def share(self) -> float:
        return self.hooks / self.seconds


def train(net: nn.Module, inputs: torch.Tensor, seconds: float, least: int, hook: Hook) -> Run:
    """Train until the time is over, for a minimum number of steps, and call the hook after each step."""
    labels = torch.randint(0, 10, (len(inputs),), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    hooks = longest = 0.0
    begin, step = time.perf_counter(), 0
    while step < least or time.perf_counter() - begin < seconds:
        step += 1
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
        before = time.perf_counter()
        hook(step)
        spent = time.perf_counter() - before
        hooks, longest = hooks + spent, max(longest, spent)
    return Run(step, time.perf_counter() - begin, hooks, longest)


class Lags:
    """An output that records the lag of the results."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        if report.step:
            self.steps.append(metrics["ww/lag_steps"])

    def close(self) -> None:
        pass


@dataclass
class Watched:
    """Measurements of a monitored training."""

    run: Run
    start: float  # seconds of the first snapshot, which allocates memory
    snapshots: int
    skipped: int
    cores: float  # cores used by the worker
    lags: list[float]


def watched(
    name: str,
    size: Size,
    every: int,
    on_worker: Callable[[int], None] = lambda pid: None,
    wide: bool = False,
    least: int = 1,
    **options: Any,
) -> Watched:
    """Train with a monitor, for a minimum number of snapshots; timing starts after the baseline."""
    net, inputs = network(name, wide)
    lags = Lags()
    monitor = ww.Monitor(net, every_n_steps=every, outputs=[lags], **options)
    before = time.perf_counter()
    monitor.start()
    start = time.perf_counter() - before
    while not monitor.status().worker_pids:
        time.sleep(0.001)
    on_worker(monitor.status().worker_pids[0])
    monitor.wait_for_first()
    pid = monitor.status().worker_pids[0]
    cpu = cpu_seconds(pid) or 0.0
    run = train(net, inputs, size.seconds, least * every + 5, monitor.step)
    cores = ((cpu_seconds(pid) or 0.0) - cpu) / run.seconds
    status = monitor.status()
    monitor.close()
    return Watched(run, start, status.snapshots - 1, status.skipped, cores, lags.steps)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def snapshot(size: Size) -> None:
    table("weights", "memcpy ms", "first snapshot ms", "snapshot ms (median, range)", "÷ memcpy")
    for gigabytes in (0.1, 0.5, 2.0):
        side = 2048
        sources = [np.ones((side, side), "f4") for _ in range(round(gigabytes * 1e9 / side / side / 4))]
        targets = [np.ones_like(source) for source in sources]
        begin = time.perf_counter()
        buffer = SnapshotBuffer([(source.shape, source.dtype) for source in sources], slots=1)
        reads = [lambda source=source: source for source in sources]
        buffer.release(buffer.take(reads) or 0)
        first = time.perf_counter() - begin
        plain, ours = [], []
        for _ in range(size.copies):  # alternate, so that the load of the machine affects both
            begin = time.perf_counter()
            for source, target in zip(sources, targets, strict=True):
                np.copyto(target, source)
            middle = time.perf_counter()
            buffer.release(buffer.take(reads) or 0)
            plain.append(middle - begin)
            ours.append(time.perf_counter() - middle)
        buffer.close()
        ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, plain, strict=True))
        median = statistics.median
        row(f"{gigabytes} GB", ms(median(plain)), ms(first), f"{ms(median(ours))} ({spread_ms(ours)})", f"{ratio:.2f}")


def step(size: Size) -> None:
    table("a step without a snapshot", "µs (median)", "µs (99 %)")
    net, _ = network("mlp")
    for name, deterministic in [("nothing pending", False), ("results pending", False), ("pending", True)]:
        monitor = ww.Monitor(net, every_n_steps=10**9, deterministic=deterministic)
        monitor.start()
        if name == "nothing pending":
            monitor.wait_for_first()
        times = []
        for number in range(1, 2001):
            begin = time.perf_counter()
            monitor.step(number)
            times.append(time.perf_counter() - begin)
        still = monitor.status().pending > 0
        assert still == (name != "nothing pending"), "the worker was too fast"
        monitor.close()
        median, late = np.quantile(times, [0.5, 0.99]) * 1e6
        row(f"{name}, {deterministic=}", f"{median:.1f}", f"{late:.1f}")


def executors(size: Size) -> None:
    """12 layers of 65536 x 64 float32, 201 MB: much to send, little to analyse."""
    from distributed import Client, LocalCluster

    heads = ("snapshot() ms (median, range)", "÷ process", "longest stall after it ms", "by threads of this process ms")
    table("executor", *heads)
    weights = {f"fc{i}": np.random.default_rng(i).standard_normal((65536, 64), dtype="f4") for i in range(12)}
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1")
    with cluster, Client(cluster) as client:
        process = 0.0
        for name, executor in (("process", "process"), ("Dask client", client)):
            seen = sending(weights, executor, size.copies)
            times = [list(each) for each in zip(*seen, strict=True)]
            median = statistics.median(times[0])
            process = process or median
            columns = [f"{ms(statistics.median(each))} ({spread_ms(each)})" for each in times]
            row(name, columns[0], f"{median / process:.2f}", *columns[1:])


def sending(weights: dict[str, Any], executor: Any, copies: int) -> list[tuple[float, float, float]]:
    """Seconds of each snapshot, and of the longest stalls of a Python loop until its results are in."""
    monitor = ww.Monitor(weights, every_n_steps=None, executor=executor, randomize=False, timeout=300.0)
    monitor.start()
    monitor.wait_for_first()
    found = []
    for number in range(1, copies + 1):  # the weights stay as they are, so that they are sent but not analysed again
        begin = time.perf_counter()
        monitor.snapshot(number)
        snapshot = time.perf_counter() - begin
        found.append((snapshot, *longest_stall(monitor._engine.futures(1))))
        while monitor.status().pending:
            monitor.step(number)
    monitor.close()
    return found


def longest_stall(futures: list[Any]) -> tuple[float, float]:
    """The longest pass of a Python loop in seconds of wall time, and in CPU time that our other threads take in a pass.

    The second does not grow if other programs use the cores.
    """
    wall, process, thread = time.perf_counter(), time.process_time(), time.thread_time()
    longest = ours = 0.0
    while not all(future.done() for future in futures):
        now = time.perf_counter(), time.process_time(), time.thread_time()
        longest = max(longest, now[0] - wall)
        ours = max(ours, (now[1] - process) - (now[2] - thread))
        wall, process, thread = now
    return longest, ours


def results(size: Size) -> None:
    """Layers of 64 x 64, with an event file: 40 with pictures, 500 without."""
    table("layers", "pictures", "snapshot() ms", "publishing ms", "longest step ms", "other threads ms of CPU")
    for count, figures in ((40, True), (500, False)):
        with tempfile.TemporaryDirectory() as folder:
            net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(count)])
            results: list[ww.Report] = []
            monitor = ww.Monitor(net, every_n_steps=10, log_dir=folder, figures=figures, on_result=results.append)
            monitor.start()
            monitor.wait_for_first()
            seen = [one_result(monitor, net, 10 * number, results) for number in range(1, size.copies + 8)][7:]
            monitor.close()
        snapshots, published, others = (list(each) for each in zip(*seen, strict=True))
        longest = [max(pair) for pair in zip(snapshots, published, strict=True)]
        row(
            count,
            figures,
            *(f"{ms(statistics.median(each))} ({spread_ms(each)})" for each in (snapshots, published)),
            *(f"{ms(statistics.median(each))} ({spread_ms(each)})" for each in (longest, others)),
        )


def one_result(monitor: ww.Monitor, net: nn.Module, step: int, results: list[ww.Report]) -> tuple[float, float, float]:
    """Seconds of the step that copies the weights, of the longest one after it, and of CPU time of other threads."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 1.001
    main = threading.get_ident()
    before = thread_seconds()
    begin = time.perf_counter()
    monitor.step(step)
    snapshot = time.perf_counter() - begin
    longest, known = 0.0, len(results)
    while len(results) == known:
        time.sleep(0.02)
        begin = time.perf_counter()
        monitor.step(step + 1)
        longest = max(longest, time.perf_counter() - begin)
    time.sleep(0.5)  # pictures
    others = sum(value - before.get(key, 0.0) for key, value in thread_seconds().items() if key != main)
    return snapshot, longest, others


def thread_seconds() -> dict[int, float]:
    """CPU seconds of each Python thread so far."""
    threads = (thread.ident for thread in threading.enumerate())
    return {each: time.clock_gettime(time.pthread_getcpuclockid(each)) for each in threads if each is not None}


def trainings(size: Size) -> Iterator[tuple[str, int, int]]:
    """Network, threads of the trainer, steps between snapshots."""
    return ((name, count, every) for name in size.networks for count in size.threads for every in EVERY)


HOOK_HEADS = ("net", "threads", "N", "steps", "share of time in hooks", "longest ms", "start ms", "snapshots")


def hooks(size: Size) -> None:
    table(*HOOK_HEADS, "skipped", "cores of the worker")
    for name, count, every in trainings(size):
        with threads(count):
            hook_row(name, count, every, watched(name, size, every))


def busy(size: Size) -> None:
    table(*HOOK_HEADS, "skipped", "cores of the worker")
    for name, every in product(size.networks, (20, 50, 200)):
        with threads(1):
            hook_row(name, 1, every, watched(name, size, every, wide=True, least=4, interval="bootstrap"))


def hook_row(name: str, count: int, every: int, seen: Watched) -> None:
    run = seen.run
    percent, longest = f"{100 * run.share:.3f} %", ms(run.longest)
    row(
        *(name, count, every, run.steps, percent, longest, ms(seen.start), seen.snapshots, seen.skipped),
        f"{seen.cores:.2f}",
    )


def throughput(size: Size) -> None:
    table("net", "threads", "N", "with ÷ without (median of pairs)", "range")
    for name, count, every in trainings(size):
        ratios = []
        with threads(count):
            for pair in range(size.pairs):
                first = pair % 2 == 0  # alternate, so that a drift of the machine does not bias the result
                rates = {kind: rate(name, size, every if kind else None) for kind in (first, not first)}
                ratios.append(rates[True] / rates[False])
        row(name, count, every, f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f} – {max(ratios):.3f}")


def rate(name: str, size: Size, every: int | None) -> float:
    if every is not None:
        return watched(name, size, every).run.rate
    return train(*network(name), size.seconds, 5, lambda step: None).rate


def priority(size: Size) -> None:
    table("net", "priority", "with ÷ without (median)", "range", "lag in steps (median)", "analysed", "skipped")
    kinds: dict[str, tuple[int, Callable[[int], None]]] = {
        "normal": (0, lambda pid: None),
        "nice 19": (19, lambda pid: None),
        "SCHED_IDLE": (19, lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))),
    }
    default = worker_process.NICENESS
    for name in size.networks:
        for kind, (niceness, on_worker) in kinds.items():
            worker_process.NICENESS, ratios, seen = niceness, [], []
            with threads(os.cpu_count() or 1):
                for pair in range(size.pairs):
                    if pair % 2:
                        seen.append(watched(name, size, 50, on_worker))
                    without = rate(name, size, None)
                    if not pair % 2:
                        seen.append(watched(name, size, 50, on_worker))
                    ratios.append(seen[-1].run.rate / without)
            lags = [lag for each in seen for lag in each.lags]
            row(
                *(name, kind, f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f} – {max(ratios):.3f}"),
                f"{statistics.median(lags):.0f}" if lags else "none arrived",
                *(sum(len(each.lags) for each in seen), sum(each.skipped for each in seen)),
            )
    worker_process.NICENESS = default


def weightwatcher(size: Size) -> None:
    from weightwatcher import WeightWatcher

    table(
        "net",
        "N",
        "steps",
        "s alone",
        "s with the monitor",
        "s with WeightWatcher",
        "× longer: monitor",
        "WeightWatcher",
    )
    for name in size.networks:
        every, steps = 50, 50 * size.calls

        def called(net: nn.Module, every: int = every) -> Hook:
            def hook(step: int) -> None:
                if step % every == 0:
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        WeightWatcher(model=net).analyze(randomize=True)

            return hook

        alone = train(*network(name), 0.0, steps, lambda step: None).seconds
        ours = watched(name, Size(seconds=0.0), every).run
        net, inputs = network(name)
        theirs = train(net, inputs, 0.0, steps, called(net)).seconds
        mine = ours.seconds * steps / ours.steps
        row(name, every, steps, *(f"{each:.1f}" for each in (alone, mine, theirs, mine / alone, theirs / alone)))


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def spread_ms(seconds: list[float]) -> str:
    return f"{ms(min(seconds))} – {ms(max(seconds))}"


def table(*heads: str) -> None:
    print()
    row(*heads)
    row(*("---" for _ in heads))


def row(*cells: Any) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


PARTS = {
    part.__name__: part
    for part in (snapshot, step, executors, results, hooks, busy, throughput, priority, weightwatcher)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="default: all")
    parser.add_argument("--quick", action="store_true", help="short runs")
    parser.add_argument("--seconds", type=float, help="duration of one training")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="training threads; default: 1 2")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, numpy {np.__version__}")
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such parts: {', '.join(unknown)}")
    size = replace(
        QUICK if arguments.quick else Size(), threads=tuple(arguments.threads), networks=tuple(arguments.networks)
    )
    if arguments.seconds is not None:
        size = replace(size, seconds=arguments.seconds)
    for part in arguments.parts or PARTS:
        begin = time.perf_counter()
        PARTS[part](size)
        print(f"{part}: {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
