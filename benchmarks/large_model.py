"""Large models: seven billion parameters on one spare core, and a run of 70 billion that is followed.

    python benchmarks/large_model.py pass        one analysis of a 4096 × 11008 layer in bfloat16: time and memory
    python benchmarks/large_model.py rotation    20 layers in rotation: which layer is analysed when
    python benchmarks/large_model.py arithmetic  the whole model, extrapolated from the time of the pass
    python benchmarks/large_model.py follow70b   the cost of following a run by its checkpoints (minutes, 6 GB)

The shapes of the first three are those of Llama 2 7B: 32 blocks of four 4096 × 4096 and three 4096 × 11008 matrices,
6.5 of its 6.7 billion parameters (embedding and head, 32000 × 4096, are omitted here).

``follow70b`` has the shapes of Llama 3 70B in bfloat16. Each matrix shape of a block is measured once as the task of a
cluster: one process with one thread reads the layer from a file and analyses it with its shuffled control. The head,
128256 × 8192, is extrapolated from the largest of them by rows · columns², which is too much: the time for eigenvalues
does not grow with the rows. The embedding of the same shape is skipped by default. With ``--scale 8`` all matrices have
an eighth of the rows and columns, and times are extrapolated by the same rule.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - after the number of threads is set

import ww_callbacks as ww  # noqa: E402
from ww_callbacks.analysis import LayerSpec, Settings  # noqa: E402
from ww_callbacks.weights import find_layers  # noqa: E402
from ww_callbacks.worker import worker_process  # noqa: E402
from ww_callbacks.worker.submits import MEMORY_FACTOR  # noqa: E402
from ww_callbacks.worker.task import make_task, run_task  # noqa: E402

worker_process.NICENESS = 0  # on a busy machine a low-priority worker would never finish; its CPU time is the same

BLOCK = [(4096, 4096)] * 4 + [(11008, 4096)] * 3
BLOCKS = 32

HIDDEN, INTERMEDIATE, KEYS, VOCABULARY = 8192, 28672, 8 * 128, 128256
BLOCK_70B = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
BLOCKS_70B = 80
INTERVAL = 1800
"""Seconds between two checkpoints of the run that is followed."""


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


class Task(NamedTuple):
    """The cost of a layer: seconds of CPU time, bytes that were read, and the peak memory of the process in bytes."""

    seconds: float
    read: int
    peak: int


def follow70b(scale: int) -> None:
    """Measure each shape of a block, and extrapolate to the checkpoints of a run."""
    with tempfile.TemporaryDirectory() as folder:
        specs = _specs_70b(Path(folder))
        measured: dict[tuple[int, int], Task] = {}
        for rows, columns in sorted({_matrix(spec) for spec in specs if spec.name != "lm_head"}):
            measured[rows, columns] = task = _measured(Path(folder), rows // scale, columns // scale)
            print(
                f"{rows // scale} × {columns // scale} bfloat16: {task.seconds:.1f} s of CPU time, "
                f"{task.read / 1e6:.0f} MB read, process at most {task.peak / 1e9:.2f} GB",
                flush=True,
            )
    _print_plan(specs, measured, scale)


def _specs_70b(folder: Path) -> list[LayerSpec]:
    """The layers that are analysed by default, found in a file with the header of the model and no numbers."""
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    for block in range(BLOCKS_70B):
        shapes |= {f"model.layers.{block}.{name}.weight": shape for name, shape in BLOCK_70B.items()}
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write(_header(shapes))
        file.truncate(file.tell() + sum(2 * math.prod(shape) for shape in shapes.values()))
    return [layer.spec for layer in find_layers(path) if layer.spec is not None]


def _header(shapes: dict[str, tuple[int, int]]) -> bytes:
    """The first bytes of a safetensors file of bfloat16."""
    entries, begin = {}, 0
    for name, shape in shapes.items():
        end = begin + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def _matrix(spec: LayerSpec) -> tuple[int, int]:
    """Rows and columns of a matrix or of its transpose, whichever has more rows."""
    _, rows, columns = spec.matrix_shape
    return max(rows, columns), min(rows, columns)


def _measured(folder: Path, rows: int, columns: int) -> Task:
    """Analyse a random layer in a process of its own."""
    path = folder / f"{rows}-{columns}.safetensors"
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(_header({"fc.weight": (rows, columns)}))
        for _ in range(rows):
            file.write((rng.standard_normal(columns, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_task, path).result()


def _task(path: Path) -> Task:
    before, start = _bytes_read(), time.process_time()
    (layer,) = find_layers(path)
    assert layer.spec is not None
    assert layer.read is not None
    answer = run_task(make_task(layer.spec, Settings(), None), layer.read())
    assert "report" in answer, answer["error"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Task(time.process_time() - start, _bytes_read() - before, peak)


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])  # rchar: from the disk or its cache


def _print_plan(specs: list[LayerSpec], measured: dict[tuple[int, int], Task], scale: int) -> None:
    largest = max(measured)
    seconds = [_seconds(_matrix(spec), measured, largest, scale) for spec in specs]
    total, longest = sum(seconds), max(seconds)
    gaps = {"the largest of the blocks": largest, "the head": (VOCABULARY, HIDDEN)}
    print(f"{sum(math.prod(spec.shape) for spec in specs) / 1e9:.1f} billion parameters in {len(specs)} layers")
    print(f"a checkpoint: {total / 3600:.1f} core-hours, {sum(spec.nbytes for spec in specs) / 1e9:.0f} GB read once")
    print(f"one checkpoint every {INTERVAL // 60} minutes: {math.ceil(total / INTERVAL)} workers with one thread each")
    print(f"the head takes {seconds[[spec.name for spec in specs].index('lm_head')] / 60:.0f} minutes of a worker")
    print(f"results are there {max(longest, total / math.ceil(total / INTERVAL)) / 60:.0f} minutes after a checkpoint")
    for name, (rows, columns) in gaps.items():
        print(f"memory that a task states for {name}: {8 * MEMORY_FACTOR * rows * columns / 1e9:.1f} GB")


def _seconds(
    shape: tuple[int, int], measured: dict[tuple[int, int], Task], largest: tuple[int, int], scale: int
) -> float:
    """Seconds of a layer: measured, or extrapolated from another shape by rows · columns²."""
    known = shape if shape in measured else largest
    work = shape[0] * shape[1] ** 2 / (known[0] * known[1] ** 2)
    return measured[known].seconds * work * scale**3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", help="pass, rotation, arithmetic, follow70b; default: all but the last, which takes longer"
    )
    parser.add_argument("--scale", type=int, default=1, help="divide the dimensions of follow70b (default: 1)")
    arguments = parser.parse_args()
    parts = arguments.parts or ["pass", "rotation", "arithmetic"]
    seconds: dict[tuple[int, int], float] = {}
    if "pass" in parts or "arithmetic" in parts:
        one_pass(seconds)
    if "rotation" in parts:
        rotation()
    if "arithmetic" in parts:
        arithmetic(seconds)
    if "follow70b" in parts:
        follow70b(arguments.scale)


if __name__ == "__main__":
    main()
