"""A long monitored run: trainer and worker do not grow, and every snapshot is accounted for.

    nice python benchmarks/soak.py [--steps 20000] [--every 5] [--entries 900]

The history of a run is bounded. Here the limit is lower than the default, so that it is reached within the first tenth
and nothing may grow afterwards. Exits with status 1 if trainer or worker grew by more than 1 % after the first tenth,
if steps are out of order, or if a snapshot is neither logged nor skipped. With ``--entries 100000``, the default limit,
the history still grows here by the size of its results, which is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

import ww_callbacks as ww
from ww_callbacks.monitor import publishing
from ww_callbacks.report import Report
from ww_callbacks.worker import worker_process

worker_process.NICENESS = 0  # at low priority the worker would take days on a busy machine


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def size_of(report: Report) -> float:
    """Memory of one report in the history, in MiB."""
    text = json.dumps(report.without_spectra().to_dicts())
    Report.from_dicts(json.loads(text))  # exclude one-time allocations
    tracemalloc.start()
    kept = [Report.from_dicts(json.loads(text)) for _ in range(200)]
    size = tracemalloc.get_traced_memory()[0] / len(kept) / 2**20
    tracemalloc.stop()
    return size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--skip", action="store_true", help="skip snapshots while the worker is busy")
    parser.add_argument("--entries", type=int, default=900, help="limit of layer results in the history")
    arguments = parser.parse_args()
    publishing.MEMORY_ENTRIES = arguments.entries
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    inputs = torch.randn(64, 64)
    samples: list[tuple[int, float, float]] = []
    logged: list[int] = []
    monitor = ww.Monitor(
        net,
        every_n_steps=arguments.every,
        deterministic=not arguments.skip,
        timeout=600.0,
        on_result=lambda report: logged.append(report.step or 0),
    )
    begin = time.perf_counter()
    monitor.start()
    for step in range(1, arguments.steps + 1):
        optimizer.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()
        monitor.step(step)
        if step % (arguments.steps // 20) == 0:
            (pid,) = monitor.status().worker_pids
            samples.append((len(monitor.history), resident(os.getpid()), resident(pid)))
            print(f"step {step}: trainer {samples[-1][1]:.1f} MiB, worker {samples[-1][2]:.1f} MiB", flush=True)
    monitor.finish()
    status, steps = monitor.status(), logged
    submitted = arguments.steps // arguments.every + 1
    print(f"{status}\n{time.perf_counter() - begin:.0f} s", end="; ")
    print(f"submitted {submitted}, logged {len(steps)}, skipped {status.skipped}")
    (reports, *before), (all_reports, *after) = samples[1], samples[-1]
    results = (all_reports - reports) * size_of(monitor.history[-1])
    trainer, worker = (new - old for old, new in zip(before, after, strict=True))
    print(f"after the first tenth: trainer {trainer:+.1f} MiB, results {results:+.1f} MiB; worker {worker:+.1f} MiB")
    is_level = trainer - results < 0.01 * before[0] and worker < 0.01 * before[1]
    in_order = all(earlier < later for earlier, later in pairwise(steps))
    return int(not (is_level and in_order and len(steps) + status.skipped == submitted))


if __name__ == "__main__":
    sys.exit(main())
