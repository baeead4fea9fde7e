"""The change of each layer between two snapshots (``updates=True``): directions counted, time and memory.

python benchmarks/updates.py planted   share of 300 changes with planted directions whose number is counted exactly
python benchmarks/updates.py noise     share of 1000 changes without direction in which any is counted
python benchmarks/updates.py intruders share of 200 changes of a trained layer with intruder dimensions
python benchmarks/updates.py cost      CPU time of an analysis with updates, relative to one without
python benchmarks/updates.py memory    memory of worker and snapshots with and without updates
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

import ww_callbacks as ww
from ww_callbacks.analysis import LayerSpec, Settings
from ww_callbacks.analysis.change import analyze_change, pair_spec
from ww_callbacks.analysis.update import update_of
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer
from ww_callbacks.worker.task import make_task, run_task

SHAPES = ((64, 32), (128, 128), (256, 128), (512, 64), (512, 512))
RANKS = (1, 2, 5, 20)
Matrix = NDArray[np.float64]
Rng = np.random.Generator


def normal(rng: Rng, n: int, m: int) -> Matrix:
    return rng.standard_normal((n, m))


def directions(rng: Rng, n: int, m: int, rank: int, strength: float) -> Matrix:
    """Equal directions; the strength is in units of the onset in unit noise, a singular value of (nm)^(1/4)."""
    left, right = (np.linalg.qr(normal(rng, size, rank))[0] for size in (n, m))
    return strength * (n * m) ** 0.25 * left @ right.T


def adam(rng: Rng, n: int, m: int, steps: int = 50) -> Matrix:
    """The sum of some steps of Adam (β = 0.9, 0.999) with random gradients."""
    first, second, total = np.zeros((3, n, m))
    for step in range(1, steps + 1):
        gradient = normal(rng, n, m)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        total -= first / (1 - 0.9**step) / np.sqrt(second / (1 - 0.999**step))
    return total


NOISE: dict[str, Callable[[Rng, int, int], Matrix]] = {
    "Gaussian": normal,
    "signs, as of one step of Adam": lambda rng, n, m: np.sign(normal(rng, n, m)),
    "50 steps of Adam": adam,
    "Student t, 5 degrees": lambda rng, n, m: rng.standard_t(5, (n, m)),
    "one tenth of the elements": lambda rng, n, m: normal(rng, n, m) * (rng.random((n, m)) < 0.1),
    "one tenth of the rows": lambda rng, n, m: normal(rng, n, m) * (np.arange(n) < n // 10)[:, None],
    "uneven rows": lambda rng, n, m: normal(rng, n, m) * np.exp(0.5 * normal(rng, n, 1)),
    "rounding to bfloat16": lambda rng, n, m: rounded(W := normal(rng, n, m)) - W,
    "weight decay of a fresh layer": lambda rng, n, m: -0.1 * normal(rng, n, m),
}


def rounded(W: Matrix) -> Matrix:
    bits = W.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32).astype(np.float64)


def rank_of(change: Matrix, rng: Rng) -> int | None:
    before = normal(rng, *change.shape)
    spec = LayerSpec("fc", "Linear", change.shape, "float64", ((), (0,), (1,)))
    now = before + 1e-3 * change
    return update_of(spec, now, before, float(np.linalg.norm(now))).rank


def planted(count: int = 300) -> None:
    header(SHAPES)
    for rank in RANKS:
        cells = []
        for number, shape in enumerate(SHAPES):
            rng = np.random.default_rng([rank, number])
            found = [rank_of(normal(rng, *shape) + directions(rng, *shape, rank, 2.0), rng) for _ in range(count)]
            cells.append(f"{100 * found.count(rank) / count:.3g} %")
        print(f"| {rank} | " + " | ".join(cells) + " |", flush=True)


def noise(count: int = 1000) -> None:
    header(SHAPES[:4])
    for kind, draw in NOISE.items():
        cells = []
        for number, shape in enumerate(SHAPES[:4]):
            rng = np.random.default_rng([len(kind), number])
            found = [rank_of(draw(rng, *shape), rng) for _ in range(count)]
            cells.append(f"{100 * sum(bool(rank) for rank in found) / count:.2g} %")
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


def intruders(count: int = 200) -> None:
    """Changes of a layer with five directions; noise as large as the noise of the layer, and planted new directions."""
    shape = (256, 128)
    new = {
        f"{rank} new directions": lambda rng, n, m, rank=rank: (
            0.3 * normal(rng, n, m) + directions(rng, n, m, rank, 6.0)
        )
        for rank in (1, 2, 5)
    }
    print("| change | with the null | without it |\n|---|---|---|")
    for kind, draw in (NOISE | new).items():
        rng = np.random.default_rng(len(kind))
        cells = np.array([_intruders(draw(rng, *shape), rng) for _ in range(count)])
        shares = [f"{100 * (each > 0).mean():.3g} % ({each.mean():.3g})" for each in cells.T]
        print(f"| {kind} | {' | '.join(shares)} |", flush=True)


def _intruders(change: Matrix, rng: Rng) -> tuple[int, int]:
    """Number of intruders, and as in arXiv 2410.21228."""
    change = change / change.std() if np.linalg.norm(change) < 0.5 * change.size**0.5 else change
    base = normal(rng, *change.shape) + directions(rng, *change.shape, 5, 4.0)
    now = base + change
    layer = LayerSpec("fc", "Linear", change.shape, "float64", ((), (0,), (1,)))
    found = analyze_change(pair_spec(layer, layer), np.stack([now, base])[:, None], Settings(randomize=False))
    left, before = (np.linalg.svd(each, full_matrices=False)[0] for each in (now, base))
    return found.intruders or 0, int((np.abs(before.T @ left[:, :10]).max(axis=0) < 0.5).sum())


def header(shapes: Sequence[tuple[int, int]]) -> None:
    print("| change | " + " | ".join(f"{n} x {m}" for n, m in shapes) + " |")
    print("|---" * (len(shapes) + 1) + "|")


def cost(repeats: int = 9) -> None:
    shapes = [*SHAPES, (1024, 1024), (3072, 768), (64, 64, 3, 3), (256, 256, 3, 3)]
    print(f"{platform.processor() or platform.machine()}; numpy {np.__version__}")
    print("| layer | plain, ms | with updates |\n|---|---|---|")
    for shape in shapes:
        rng, dtype = np.random.default_rng(0), np.dtype("f4")
        axes = ((2, 3), (0,), (1,)) if len(shape) == 4 else ((), (0,), (1,))
        spec = LayerSpec("layer", "Linear", shape, "float32", axes, "convolution" if len(shape) == 4 else "matrix")
        buffer = SnapshotBuffer([(shape, dtype)], 1, keep=[0])
        kept = buffer.kept(0)
        assert kept is not None
        weights = (rng.standard_normal(shape) + learned(rng, shape)).astype(dtype)
        run_task(make_task(spec, Settings(), 0), weights, kept)
        plain, ratios = [], []
        for step in range(1, repeats + 1):
            change = rng.standard_normal(shape) + learned(rng, shape)
            weights = (weights + 1e-3 * change).astype(dtype)
            task = make_task(spec, Settings(), step)
            alone, both = run_task(task, weights)["cpu"], run_task(task, weights, kept)["cpu"]
            plain.append(alone)
            ratios.append(both / alone)
        size = " x ".join(map(str, shape))
        print(f"| {size} | {1000 * statistics.median(plain):.3g} | {statistics.median(ratios):.2f} |", flush=True)
        buffer.close()


def learned(rng: Rng, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Five directions of a dense layer, or of all kernel positions side by side."""
    rows, columns, *kernel = shape
    flat = directions(rng, rows, columns * math.prod(kernel), 5, 4.0)
    return flat.reshape(shape)


def memory() -> None:
    """Eight layers of 2048 x 2048: 128 MiB of weights."""
    rng = np.random.default_rng(0)
    weights = {f"fc{index}": rng.standard_normal((2048, 2048)).astype("f4") for index in range(8)}
    size = sum(each.nbytes for each in weights.values())
    print("| | snapshots and copies / weights | peak of the worker's own memory / weights |\n|---|---|---|")
    for updates in (False, True):
        largest = 0
        with ww.Monitor(weights, every_n_steps=None, updates=updates, timeout=600.0) as monitor:
            for step in (1, 2):
                for each in weights.values():
                    each += 1e-3 * rng.standard_normal(each.shape).astype("f4")
                monitor.snapshot(step)
                while monitor.status().pending:
                    largest = max([largest, *map(own_memory, monitor.status().worker_pids)])
                    time.sleep(0.01)
                    monitor.step(step)
            shared = monitor.status().snapshot_bytes
        print(f"| updates={updates} | {shared / size:.2f} | {largest / size:.2f} |", flush=True)


def own_memory(pid: int) -> int:
    """Private memory of a process, in bytes."""
    with open(f"/proc/{pid}/status") as lines:
        values = dict(line.split(":", 1) for line in lines)
    return 1024 * int(values["RssAnon"].split()[0])


PARTS = {"planted": planted, "noise": noise, "intruders": intruders, "cost": cost, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(PARTS))
    PARTS[parser.parse_args().what]()


if __name__ == "__main__":
    main()
