"""CPU time and accuracy of WeightWatcher and ww_callbacks on the same layers, in one process with one BLAS thread.

    python benchmarks/analysis.py            # all tables, about ten minutes
    python benchmarks/analysis.py fit memory # of: fit, small, layers, share, memory, float32, bootstrap, control

Every ratio compares two measurements of the same run. The weights imitate trained layers: Gaussian noise plus a
low-rank part with a power-law spectrum.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from statistics import median

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - after the number of threads is set

import ww_callbacks as ww  # noqa: E402
from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer  # noqa: E402
from ww_callbacks.spectra import fit_power_law  # noqa: E402
from ww_callbacks.spectra.lapack import add_gram, symmetric_eigenvalues  # noqa: E402
from ww_callbacks.spectra.shuffle import shuffled_blocks  # noqa: E402

GPT2_BLOCK = [(768, 2304), (768, 768), (768, 3072), (3072, 768)]
RESNET18 = [(64, 3, 7)] + [(64, 64, 3)] * 4
RESNET18 += [(128, 64, 3), (128, 128, 3), (128, 64, 1), (128, 128, 3), (128, 128, 3)]
RESNET18 += [(256, 128, 3), (256, 256, 3), (256, 128, 1), (256, 256, 3), (256, 256, 3)]
RESNET18 += [(512, 256, 3), (512, 512, 3), (512, 256, 1), (512, 512, 3), (512, 512, 3)]
WORKLOADS: dict[str, tuple[list[tuple[int, ...]], int]] = {  # shapes, repeats of ours
    "3 GPT-2-small blocks + 2048²": (GPT2_BLOCK * 3 + [(2048, 2048)], 3),
    "ResNet-18": ([*RESNET18, (1000, 512)], 3),
    "4096²": ([(4096, 4096)], 1),
}
SMALL = {
    "20 layers of 64 x 64": [(64, 64)] * 20,
    "20 layers of 128 x 128": [(128, 128)] * 20,
    "200 layers of 64 x 64": [(64, 64)] * 200,
}


def heavy(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    rank = max(1, min(rows, columns) // 10)
    left, right = rng.standard_normal((rows, rank)), rng.standard_normal((rank, columns))
    strength = (rng.pareto(1.5, rank) + 1) / np.sqrt(rows * columns) * 3
    return ((rng.standard_normal((rows, columns)) + (left * strength) @ right) / np.sqrt(rows)).astype(np.float32)


def weights(shapes: list[tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    result = {}
    for number, (rows, columns, *kernel) in enumerate(shapes):
        size = kernel[0] if kernel else 0
        name = f"layer{number}"
        if size:
            slices = np.stack([heavy(rng, rows, columns) for _ in range(size * size)], axis=-1)
            result[name] = slices.reshape(rows, columns, size, size)
        else:
            result[name] = heavy(rng, rows, columns)
    return result


def cpu(function: Callable[[], object], repeats: int = 1) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return median(times)


def torch_model(arrays: dict[str, np.ndarray]) -> object:
    import torch

    torch.set_num_threads(1)
    layers = []
    for array in arrays.values():
        rows, columns = array.shape[:2]
        is_conv = array.ndim == 4
        layer = (
            torch.nn.Conv2d(columns, rows, array.shape[2], bias=False) if is_conv else torch.nn.Linear(columns, rows)
        )
        layer.weight.data = torch.from_numpy(array)
        layers.append(layer)
    return torch.nn.Sequential(*layers)


def peer(model: object, randomize: bool) -> None:
    import weightwatcher

    with contextlib.redirect_stdout(io.StringIO()):
        weightwatcher.WeightWatcher(model=model).analyze(randomize=randomize)


def layers() -> None:
    print("\n| layers | WeightWatcher | ours | ratio | WeightWatcher randomize | ours randomize | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, (shapes, repeats) in WORKLOADS.items():
        arrays = weights(shapes)
        model = torch_model(arrays)
        theirs = [cpu(lambda model=model, r=r: peer(model, r)) for r in (False, True)]
        first = cpu(lambda arrays=arrays: ww.analyze(arrays))
        ours = [cpu(lambda arrays=arrays, r=r: ww.analyze(arrays, randomize=r), repeats) for r in (False, True)]
        print(
            f"| {name} | {theirs[0]:.2f} s | {ours[0]:.2f} s | {theirs[0] / ours[0]:.1f} | {theirs[1]:.2f} s "
            f"| {ours[1]:.2f} s ({first:.2f} s the first time) | {theirs[1] / ours[1]:.1f} ({theirs[1] / first:.1f}) |",
            flush=True,
        )


def small() -> None:
    """Layers so small that fixed costs count. Measured in turns, because the speed of a busy machine varies."""
    print("\n| layers | WeightWatcher | ours | ratio | ours randomize |")
    print("|---|---|---|---|---|")
    for name, shapes in SMALL.items():
        arrays = weights(shapes)
        runs = [
            partial(peer, torch_model(arrays), False),
            *(partial(ww.analyze, arrays, randomize=r) for r in (False, True)),
        ]
        times = np.array([[cpu(run) for run in runs] for _ in range(10)])[1:] * 1e3
        middle, least, most = np.median(times, axis=0), times.min(axis=0), times.max(axis=0)
        cells = [f"{m:.0f} ms ({low:.0f} to {high:.0f})" for m, low, high in zip(middle, least, most, strict=True)]
        print(f"| {name} | {cells[0]} | {cells[1]} | {middle[0] / middle[1]:.1f} | {cells[2]} |", flush=True)


def processor() -> str:
    """Name of the processor, as far as the system says it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def core(matrix: np.ndarray) -> None:
    product = np.zeros((matrix.shape[1],) * 2, matrix.dtype)
    add_gram(product, matrix)
    symmetric_eigenvalues(product)


def share() -> None:
    """Share of the Gram product and the eigenvalues in the time of a dense layer, with weights already in float64."""
    print("\n| layer | whole | share | with control | share |")
    print("|---|---|---|---|---|")
    for rows, columns in [(768, 768), (3072, 768), (2048, 2048)]:
        matrix = heavy(np.random.default_rng(0), rows, columns)
        wide = matrix.astype(np.float64)
        spec = LayerSpec("layer", "Linear", matrix.shape, "float32", ((), (0,), (1,)))
        wholes: list[list[float]] = [[], []]
        cores: list[list[float]] = [[], []]
        for _ in range(5):
            for index, randomize in enumerate((False, True)):
                wholes[index].append(cpu(partial(analyze_layer, spec, matrix, Settings(randomize=randomize))))
            exact = cpu(partial(core, wide))
            cores[0].append(exact)
            cores[1].append(exact + cpu(partial(core, matrix)))
        whole, part = [median(w) for w in wholes], [median(c) for c in cores]
        cells = [f"{w * 1e3:.0f} ms | {c / w:.0%}" for w, c in zip(whole, part, strict=True)]
        print(f"| {rows} x {columns} | {cells[0]} | {cells[1]} |", flush=True)


def families(size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    gauss, student = rng.standard_normal((2 * size, size)), rng.standard_t(3, (2 * size, size))
    trained = heavy(rng, 2 * size, size).astype(np.float64)
    return {
        "Pareto": rng.pareto(2, size) + 1,
        "Gaussian matrix": np.linalg.eigvalsh(gauss.T @ gauss),
        "Student-t matrix": np.linalg.eigvalsh(student.T @ student),
        "trained": np.linalg.eigvalsh(trained.T @ trained),
        "log-normal and Pareto": np.r_[np.exp(rng.standard_normal(size // 2)), 3 * (rng.pareto(2, size // 2) + 1)],
        "with ties": np.round(rng.pareto(2, size) + 1, 1),
    }


def fit() -> None:
    from weightwatcher.WW_powerlaw import WWFit

    print("\n| spectrum | n | WeightWatcher | ours | ratio |")
    print("|---|---|---|---|---|")
    ratios = []
    for size in (500, 1000, 2000):
        for name, values in families(size, np.random.default_rng(size)).items():
            theirs = cpu(lambda values=values: WWFit(values), 3)
            ours = cpu(lambda values=values: [fit_power_law(values) for _ in range(10)], 3) / 10
            ratios.append(theirs / ours)
            print(f"| {name} | {size} | {theirs * 1e3:.1f} ms | {ours * 1e3:.2f} ms | {ratios[-1]:.0f} |", flush=True)
    print(f"\nmedian ratio {median(ratios):.0f}, smallest {min(ratios):.1f}")


def memory() -> None:
    print("\n| layer | peak in addition to the weights | / (8 M²) |")
    print("|---|---|---|")
    for rows, columns in [(4096, 1024), (1024, 1024), (16384, 512)]:
        matrix = heavy(np.random.default_rng(0), rows, columns)
        for randomize in (False, True):
            ww.analyze({"layer": matrix}, randomize=randomize)
            tracemalloc.start()
            ww.analyze({"layer": matrix}, randomize=randomize)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            label = " with control" if randomize else ""
            print(f"| {rows} x {columns}{label} | {peak / 2**20:.0f} MiB | {peak / (8 * columns**2):.2f} |", flush=True)


def control() -> None:
    """First and later calls with the shuffled control, and the memory of a shuffle: its peak and what is kept."""
    print("\n| layers | without control | first call with it | later | first / later | shuffle, peak | kept |")
    print("|---|---|---|---|---|---|---|")
    for shapes, repeats in [([(50257, 768)], 3), ([(4096, 4096), (11008, 4096)], 1), ([(4096, 11008)], 1)]:
        arrays = {str(shape): heavy(np.random.default_rng(0), *shape) for shape in shapes}
        without = cpu(partial(ww.analyze, arrays, randomize=False), repeats)
        first = cpu(partial(ww.analyze, arrays, randomize=True))
        later = cpu(partial(ww.analyze, arrays, randomize=True), repeats)
        tracemalloc.start()
        for array in arrays.values():
            deque(shuffled_blocks(array if len(array) >= array.shape[1] else array.T, seed=1, position=0), maxlen=0)
        kept, peak = (size / 2**20 for size in tracemalloc.get_traced_memory())
        tracemalloc.stop()
        cells = (
            f"{without:.2f} s | {first:.2f} s | {later:.2f} s | {first / later:.2f} | {peak:.0f} MiB | {kept:.0f} MiB"
        )
        print(f"| {' and '.join(f'{rows} x {columns}' for rows, columns in shapes)} | {cells} |", flush=True)


def decades(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A spectrum spread evenly over ten decades."""
    left = np.linalg.qr(rng.standard_normal((rows, columns)))[0]
    right = np.linalg.qr(rng.standard_normal((columns, columns)))[0]
    return (left * 10 ** rng.uniform(-5, 0, columns)) @ right


FLOAT32_FAMILIES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "looks trained": heavy,
    "Gaussian": lambda rng, rows, columns: rng.standard_normal((rows, columns)),
    "Student-t, 3 degrees of freedom": lambda rng, rows, columns: rng.standard_t(3, (rows, columns)),
    "ten decades": decades,
}


def float32() -> None:
    """Real errors of single precision and the estimate, for 24 matrices of each family."""
    head = ("family", "in double precision", "median error of alpha", "largest", "largest with the same xmin")
    print("\n| " + " | ".join((*head, "different xmin", "above alpha_error", "alpha_hill", "no rank", "time")) + " |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, make in FLOAT32_FAMILIES.items():
        rng = np.random.default_rng(0)
        pairs, times = [], [0.0, 0.0]
        for rows, columns in [(512, 512), (768, 768), (2048, 512)] * 8:
            matrix = make(rng, rows, columns).astype(np.float32)
            layers = []
            for index, precision in enumerate(("float64", "float32")):
                start = time.process_time()
                report = ww.analyze({"layer": matrix}, precision=precision, randomize=False)
                times[index] += time.process_time() - start
                layers.append(report.layers[0])
            pairs.append(layers)
        errors = np.array([abs(exact.alpha - fast.alpha) for exact, fast in pairs])
        other = np.array([exact.num_pl_spikes != fast.num_pl_spikes for exact, fast in pairs])
        low = sum(error > (fast.alpha_error or 0) for error, (_, fast) in zip(errors, pairs, strict=True))
        wide = sum(fast.alpha_error is None for _, fast in pairs)
        hill = max(abs(exact.alpha_hill - fast.alpha_hill) for exact, fast in pairs)
        rankless = sum(fast.matrix_rank is None for _, fast in pairs)
        assert all(fast.matrix_rank in (None, exact.matrix_rank) for exact, fast in pairs)
        sizes = [np.median(errors), errors.max(), errors[~other].max()]
        cells = [f"{wide} of {len(pairs)}", *(f"{size:.0e}" for size in sizes), f"{other.sum()} of {len(pairs)}"]
        cells += [f"{low} of {len(pairs)}", f"{hill:.0e}", f"{rankless} of {len(pairs)}", f"{times[1] / times[0]:.2f}"]
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


def bootstrap() -> None:
    print("\n| layer | everything else | bootstrap | ratio |")
    print("|---|---|---|---|")
    for rows, columns in [(128, 128), (256, 256), (512, 512), (2048, 512), (768, 768), (2048, 1024)]:
        matrix = heavy(np.random.default_rng(0), rows, columns)
        spec = LayerSpec("layer", "Linear", matrix.shape, "float32", ((), (0,), (1,)))
        without = cpu(partial(analyze_layer, spec, matrix, Settings()), 5)
        both = cpu(partial(analyze_layer, spec, matrix, Settings(interval="bootstrap")), 5)
        cells = f"{without * 1e3:.0f} ms | {(both - without) * 1e3:.0f} ms | {(both - without) / without:.2f}"
        print(f"| {rows} x {columns} | {cells} |", flush=True)


TABLES = {t.__name__: t for t in (fit, small, share, memory, float32, bootstrap, control, layers)}


def main() -> None:
    packages = ("numpy", "scipy", "torch", "weightwatcher")
    print(
        f"{processor()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )
    for name in sys.argv[1:] or TABLES:
        TABLES[name]()


if __name__ == "__main__":
    main()
