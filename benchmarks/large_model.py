"""A model with seven billion parameters on one spare core, with an analysis budget.

    python benchmarks/large_model.py pass        one analysis of a 4096 × 11008 layer in bfloat16: time and memory
    python benchmarks/large_model.py rotation    20 layers in rotation: which layer is analysed when
    python benchmarks/large_model.py arithmetic  the whole model, extrapolated from the time of the pass

The shapes are those of Llama 2 7B: 32 blocks of four 4096 × 4096 and three 4096 × 11008 matrices, 6.5 of its 6.7
billion parameters (embedding and head, 32000 × 4096, are omitted here).
"""

from __future__ import annotations

import argparse
import os
import time

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - after the number of threads is set

import ww_callbacks as ww  # noqa: E402
from ww_callbacks.worker import worker_process  # noqa: E402

worker_process.NICENESS = 0  # on a busy machine a low-priority worker would never finish; its CPU time is the same

BLOCK = [(4096, 4096)] * 4 + [(11008, 4096)] * 3
BLOCKS = 32


def one_pass(seconds: dict[tuple[int, int], float]) -> None:
    """Run a real monitor, snapshot and worker process on each of the two shapes."""
    import torch

    for rows, columns in dict.fromkeys(BLOCK):
        torch.manual_seed(0)
        layer = torch.nn.Linear(columns, rows, bias=False, dtype=torch.bfloat16)
        with ww.Monitor(torch.nn.Sequential(layer), every_n_steps=10**6, timeout=3600.0) as monitor:
            copied = monitor.status().copy_seconds
            peak = 0
            while not len(monitor.history):
                time.sleep(0.2)
                peak = max(peak, monitor.status().worker_memory or 0)
                monitor.step(1)
            status, found = monitor.status(), monitor.history[0]["0"]
        seconds[rows, columns] = status.worker_cpu
        assert found.status == "ok", found.reason
        print(
            f"{rows} × {columns} bfloat16, {rows * columns * 2 / 2**20:.0f} MiB: copied in {1000 * copied:.0f} ms, its "
            f"memory allocated in them; {status.worker_cpu:.1f} s of CPU time, worker at most {peak / 2**20:.0f} MiB; "
            f"alpha {found.alpha:.2f}, {found.num_evals} eigenvalues, {found.num_traps} traps",
            flush=True,
        )


def rotation() -> None:
    """Staleness of 20 layers, of which each snapshot analyses only some."""
    rng = np.random.default_rng(0)
    model = {f"layer{i:02d}": rng.standard_t(3, (600, 400)).astype(np.float32) for i in range(20)}
    with ww.Monitor(model, every_n_steps=10, budget="0.08s", deterministic=True, timeout=600.0) as monitor:
        for step in range(1, 201):
            for weights in model.values():
                weights *= np.float32(1.0005)
            monitor.step(step)
        status = monitor.status()
        print(f"20 layers, budget 0.08 s per snapshot, a snapshot every 10 steps, as of step {step}")
    for report in list(monitor.history)[:6]:
        looked_at = [layer.name[-2:] for layer in report if layer.step == report.step and layer.status == "ok"]
        print(f"  step {report.step}: layers {' '.join(looked_at)}")
    print("  staleness in steps: " + ", ".join(f"{name[-2:]}: {age}" for name, age in status.staleness.items()))
    ages = [age for age in status.staleness.values() if age is not None]
    print(f"  at most {max(ages)} steps; {status.worker_cpu / status.snapshots:.2f} s of CPU time per snapshot")


def arithmetic(seconds: dict[tuple[int, int], float]) -> None:
    """Time of one round over the model on one core, and its memory."""
    round_ = BLOCKS * sum(seconds[shape] for shape in BLOCK)
    parameters = BLOCKS * sum(rows * columns for rows, columns in BLOCK)
    slot = max(256 * 2**20, max(2 * rows * columns for rows, columns in BLOCK))
    print(f"{parameters / 1e9:.2f} billion parameters in {BLOCKS * len(BLOCK)} layers")
    print(f"one round over all of them: {round_ / 3600:.2f} hours of one core")
    for share in (1.0, 0.25, 0.05):
        print(f"  budget={share}: each layer is analysed every {round_ / share / 3600:.1f} hours")
    print(
        f"memory for the copies: 2 slots of {slot / 2**20:.0f} MiB, "
        f"compared with {2 * parameters / 2**30:.1f} GiB of weights"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="pass, rotation, arithmetic; default: all")
    parts = parser.parse_args().parts or ["pass", "rotation", "arithmetic"]
    seconds: dict[tuple[int, int], float] = {}
    if "pass" in parts or "arithmetic" in parts:
        one_pass(seconds)
    if "rotation" in parts:
        rotation()
    if "arithmetic" in parts:
        arithmetic(seconds)


if __name__ == "__main__":
    main()
