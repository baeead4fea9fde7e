"""A long watched run: memory of trainer and worker does not grow, no step is lost uncounted.

    nice python benchmarks/soak.py [--steps 20000] [--every 5]

Ends with status 1 where memory grew by more than 2 % after the first tenth, or a snapshot is unaccounted for.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

import ww_callbacks as ww


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--when-busy", choices=("wait", "skip"), default="wait", help="wait: all are analysed")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    inputs = torch.randn(64, 64)
    seen: list[int] = []
    samples: list[tuple[int, float, float]] = []
    monitor = ww.Monitor(
        net,
        every_n_steps=arguments.every,
        when_busy=arguments.when_busy,
        drain_timeout=600.0,
        on_result=lambda report: seen.append(report.step or 0),
    )
    begin = time.perf_counter()
    monitor.start()
    for step in range(1, arguments.steps + 1):
        optimizer.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()
        monitor.step(step)
        if step % (arguments.steps // 20) == 0:
            pids = monitor.status().worker_pids
            samples.append((step, resident(os.getpid()), resident(pids[0]) if pids else float("nan")))
            print(f"step {step}: trainer {samples[-1][1]:.1f} MiB, worker {samples[-1][2]:.1f} MiB", flush=True)
    monitor.finish()
    status = monitor.status()
    print(status)
    submitted = arguments.steps // arguments.every + 1
    counted = status.published + status.skipped
    took = time.perf_counter() - begin
    print(f"{took:.0f} s; submitted {submitted} = {status.published} logged + {status.skipped} skipped")
    early, late = samples[1], samples[-1]
    growth = [late[place] / early[place] - 1 for place in (1, 2)]
    print(f"growth after the first tenth: trainer {growth[0]:+.2%}, worker {growth[1]:+.2%}")
    ordered = all(before < after for before, after in pairwise(seen))
    return int(max(growth) > 0.02 or counted != submitted or not ordered)


if __name__ == "__main__":
    sys.exit(main())
