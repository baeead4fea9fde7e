"""The null hypothesis for trained layers (``ww_callbacks.spectra.null_test``) on fresh, planted and trained layers.

python benchmarks/nulls.py fresh     share of 300 fresh layers of each kind and shape that is called "arranged"
python benchmarks/nulls.py words     what ``ww.analyze`` says of 300 fresh layers of each kind and shape
python benchmarks/nulls.py held-out  the same for kinds on which nothing was tuned
python benchmarks/nulls.py traps     the kind that is found for 100 layers with a planted cause at twice its onset
python benchmarks/nulls.py planted   share of 200 layers with planted structure
python benchmarks/nulls.py cost      time of the test as a share of the analysis of a layer, with control
python benchmarks/nulls.py networks FOLDER   trained ResNets on CIFAR-10 (state dicts); lists the layers not arranged
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import ww_callbacks as ww
from ww_callbacks.spectra import (
    LEVEL,
    edge_threshold,
    eigenvalues,
    marchenko_pastur_edge,
    null_test,
    shuffled_control,
)

SHAPES = ((64, 32), (128, 128), (256, 128), (512, 64))
Matrix = NDArray[np.float64]
Rng = np.random.Generator


def normal(rng: Rng, n: int, m: int) -> Matrix:
    return rng.standard_normal((n, m))


def truncated(rng: Rng, n: int, m: int) -> Matrix:
    return np.where(np.abs(W := normal(rng, n, m)) < 2, W, rng.uniform(-1, 1, (n, m)))


def scales(rng: Rng, *shape: int, spread: float = 0.5) -> Matrix:
    return np.exp(spread * rng.standard_normal(shape))


def orthogonal(rng: Rng, n: int, m: int) -> Matrix:
    return np.linalg.qr(normal(rng, n, m))[0]


def sparse_columns(rng: Rng, n: int, m: int) -> Matrix:
    """As ``torch.nn.init.sparse_``: nine tenths of each column are zero."""
    kept = rng.permuted(np.tile(np.arange(n) < n // 10, (m, 1)), axis=1).T
    return normal(rng, n, m) * kept


def causal(rng: Rng, n: int, m: int) -> Matrix:
    return normal(rng, n, m) * (np.arange(n)[:, None] * m >= np.arange(m) * n)


def block_diagonal(rng: Rng, n: int, m: int) -> Matrix:
    return normal(rng, n, m) * (np.arange(n)[:, None] * 4 // n == np.arange(m) * 4 // m)


def fused(rng: Rng, n: int, m: int) -> Matrix:
    return normal(rng, n, m) * np.where(np.arange(n) < 2 * n // 3, 1.0, 0.25)[:, None]


def pruned(rng: Rng, n: int, m: int) -> Matrix:
    W = normal(rng, n, m)
    return W * (np.abs(W) > np.quantile(np.abs(W), 0.9))


def huge_element(rng: Rng, n: int, m: int) -> Matrix:
    W = normal(rng, n, m)
    W.flat[rng.integers(W.size)] = 50
    return W


def quantised(rng: Rng, n: int, m: int, bits: int = 4) -> Matrix:
    W = normal(rng, n, m)
    step = np.abs(W).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.round(W / step) * step


def tied_columns(rng: Rng, n: int, m: int) -> Matrix:
    return np.repeat(normal(rng, n, m // 2), 2, axis=1)


FRESH: dict[str, Callable[[Rng, int, int], Matrix]] = {
    "normal (Xavier, Kaiming, LeCun)": normal,
    "uniform (Xavier, Kaiming, LeCun)": lambda rng, n, m: rng.uniform(-1, 1, (n, m)),
    "truncated normal": truncated,
    "orthogonal": orthogonal,
    "identity": lambda rng, n, m: np.eye(n, m),
    "identity + 1 % noise": lambda rng, n, m: np.eye(n, m) + 0.01 * normal(rng, n, m),
    "constant mean + noise": lambda rng, n, m: 0.5 + normal(rng, n, m),
    "uniform (0, 1)": lambda rng, n, m: rng.random((n, m)),
    "absolute normal": lambda rng, n, m: np.abs(normal(rng, n, m)),
    "Laplace": lambda rng, n, m: rng.laplace(size=(n, m)),
    "Student-t, 5 degrees": lambda rng, n, m: rng.standard_t(5, (n, m)),
    "Student-t, 3 degrees": lambda rng, n, m: rng.standard_t(3, (n, m)),
    "log-normal with signs": lambda rng, n, m: np.sign(normal(rng, n, m)) * scales(rng, n, m, spread=1.5),
    "one huge element": huge_element,
    "50 % masked at random": lambda rng, n, m: normal(rng, n, m) * (rng.random((n, m)) < 0.5),
    "90 % masked at random": lambda rng, n, m: normal(rng, n, m) * (rng.random((n, m)) < 0.1),
    "90 % of each column zero": sparse_columns,
    "90 % pruned by magnitude": pruned,
    "causal mask": causal,
    "block-diagonal mask": block_diagonal,
    "row scales 0.5": lambda rng, n, m: normal(rng, n, m) * scales(rng, n, 1),
    "row scales 1": lambda rng, n, m: normal(rng, n, m) * scales(rng, n, 1, spread=1),
    "column scales 0.5": lambda rng, n, m: normal(rng, n, m) * scales(rng, m),
    "row and column scales 0.5": lambda rng, n, m: normal(rng, n, m) * scales(rng, n, 1) * scales(rng, m),
    "fused blocks, ratio 1/4": fused,
    "4 bits, a scale per row": quantised,
    "bfloat16": lambda rng, n, m: (normal(rng, n, m).astype("f4").view("u4") & 0xFFFF0000).view("f4").astype("f8"),
    "tied columns": tied_columns,
    "LoRA A (Kaiming uniform), 16 rows": lambda rng, n, m: rng.uniform(-1, 1, (16, m)),
    "LoRA A·B with the first step of B": lambda rng, n, m: (
        normal(rng, n, m) + 1e-3 * normal(rng, n, 4) @ normal(rng, 4, m)
    ),
    "layer scale 1e-6": lambda rng, n, m: 1e-6 * normal(rng, n, m),
    "gates of an LSTM, forget gate of 1": lambda rng, n, m: np.hstack(
        [rng.uniform(-1, 1, (n, m - 1)), np.ones((n, 1))]
    ),
}


def zipf_rows(rng: Rng, n: int, m: int) -> Matrix:
    """As an embedding whose frequent tokens have larger vectors."""
    return normal(rng, n, m) * rng.permutation(1 / np.sqrt(1 + np.arange(n)))[:, None]


def two_of_four(rng: Rng, n: int, m: int) -> Matrix:
    """Structured sparsity: the two largest of each four neighbours are kept."""
    W = normal(rng, n, m).reshape(n, m // 4, 4)
    return (W * (np.abs(W).argsort(axis=2).argsort(axis=2) >= 2)).reshape(n, m)


def banded(rng: Rng, n: int, m: int) -> Matrix:
    return normal(rng, n, m) * (np.abs(np.arange(n)[:, None] * m / n - np.arange(m)) < m / 8)


def ternary(rng: Rng, n: int, m: int) -> Matrix:
    W = normal(rng, n, m)
    return np.sign(W) * (np.abs(W) > 0.7)


def heads(rng: Rng, n: int, m: int) -> Matrix:
    """Blocks of columns with scales between 1 and 3, as heads of attention."""
    return normal(rng, n, m) * np.repeat(np.linspace(1, 3, 4), m // 4)


def spherical_rows(rng: Rng, n: int, m: int) -> Matrix:
    W = normal(rng, n, m)
    return W / np.linalg.norm(W, axis=1, keepdims=True)


def dead_rows(rng: Rng, n: int, m: int) -> Matrix:
    return normal(rng, n, m) * (rng.random((n, 1)) < 0.7)


HELD_OUT: dict[str, Callable[[Rng, int, int], Matrix]] = {
    "rows by Zipf's law": zipf_rows,
    "two of four neighbours zero": two_of_four,
    "banded mask": banded,
    "ternary": ternary,
    "random signs": lambda rng, n, m: rng.choice([-1.0, 1.0], (n, m)),
    "8 bits, one scale": lambda rng, n, m: quantised(rng, 1, n * m, 8).reshape(n, m),
    "heads of different scale": heads,
    "rows of norm 1": spherical_rows,
    "30 % of the rows zero": dead_rows,
    "normalisation folded into columns": lambda rng, n, m: normal(rng, n, m) * (1 + 0.3 * rng.standard_normal(m)),
    "checkerboard mask": lambda rng, n, m: normal(rng, n, m) * ((np.arange(n)[:, None] + np.arange(m)) % 2),
    "mixture of two scales": lambda rng, n, m: normal(rng, n, m) * np.where(rng.random((n, m)) < 0.2, 3.0, 1.0),
    "97 % masked at random": lambda rng, n, m: normal(rng, n, m) * (rng.random((n, m)) < 0.03),
    "permutation + 10 % noise": lambda rng, n, m: np.eye(n, m)[rng.permutation(n)] + 0.1 * normal(rng, n, m),
}


def one_row(rng: Rng, n: int, m: int, *, shifted: bool = False) -> Matrix:
    """One row at twice the onset of a single element: with random signs, or shifted."""
    W, row, size = normal(rng, n, m), rng.integers(n), 2 * (n * m) ** 0.25
    W[row] = W[row] + size if shifted else W[row] * size
    return W


def single(rng: Rng, n: int, m: int) -> Matrix:
    W = normal(rng, n, m)
    W.flat[rng.choice(W.size, rng.integers(1, 4), replace=False)] = 2 * (n * m) ** 0.25
    return W


def kurtotic(rng: Rng, n: int, m: int) -> Matrix:
    """So many zeros that the kurtosis moves the edge by twice the distance to the threshold."""
    excess = edge_threshold(1.0, n, m) / marchenko_pastur_edge(1.0, n, m)[0] - 1
    return normal(rng, n, m) * (rng.random((n, m)) < 3 / (2 * excess * math.sqrt(n * m) + 3))


CAUSES: dict[str, tuple[str, Callable[[Rng, int, int], Matrix]]] = {
    "mean": ("mean", lambda rng, n, m: normal(rng, n, m) + 2 * (n * m) ** -0.25),
    "one to three elements": ("elements", single),
    "a row with random signs": ("rows", one_row),
    "a shifted row": ("rows", lambda rng, n, m: one_row(rng, n, m, shifted=True)),
    "a column with random signs": ("columns", lambda rng, n, m: one_row(rng, m, n).T),
    "a shifted column": ("columns", lambda rng, n, m: one_row(rng, m, n, shifted=True).T),
    "zeros": ("kurtosis", kurtotic),
}


def direction(rng: Rng, n: int, m: int, strength: float) -> Matrix:
    u, v = rng.standard_normal(n), rng.standard_normal(m)
    return strength * (n * m) ** 0.25 * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))


def correlated(rng: Rng, n: int, m: int) -> Matrix:
    W = normal(rng, n, m)
    return W + 0.15 * np.roll(W, 1, axis=1)


PLANTED: dict[str, Callable[[Rng, int, int], Matrix]] = {
    "rank 1 at 1.2 x the onset": lambda rng, n, m: normal(rng, n, m) + direction(rng, n, m, 1.2),
    "rank 1 at 1.5 x": lambda rng, n, m: normal(rng, n, m) + direction(rng, n, m, 1.5),
    "rank 1 at 2 x": lambda rng, n, m: normal(rng, n, m) + direction(rng, n, m, 2),
    "rank 20 at 0.8 x": lambda rng, n, m: normal(rng, n, m) + sum(direction(rng, n, m, 0.8) for _ in range(20)),
    "neighbouring columns, 0.15": correlated,
}


def share(draw: Callable[[Rng, int, int], Matrix], rows: int, columns: int, count: int, seed: int) -> float:
    """Share of layers with a p-value of at most 0.001."""
    rng = np.random.default_rng([seed, rows, columns])
    found = 0
    for _ in range(count):
        W = draw(rng, rows, columns)
        try:
            found += null_test(W, eigenvalues(W)).pvalue <= LEVEL
        except ValueError:  # cannot be told
            continue
    return found / count


def table(kinds: dict[str, Callable[[Rng, int, int], Matrix]], count: int) -> None:
    print("| kind | " + " | ".join(f"{rows} x {columns}" for rows, columns in SHAPES) + " |")
    print("|---" * (len(SHAPES) + 1) + "|")
    for seed, (name, draw) in enumerate(kinds.items()):
        shares = (share(draw, rows, columns, count, seed) for rows, columns in SHAPES)
        print(f"| {name} | " + " | ".join(f"{100 * each:.3g} %" for each in shares) + " |", flush=True)


def said(layer: ww.LayerReport) -> dict[str, bool]:
    """Whether each word is said of the layer. None should be said of a fresh one; one in 20 has such a p-value."""
    return {
        "arranged": layer.null == "arranged",
        "reliable": bool(layer.reliable),
        "trapped": bool(layer.num_traps),
        "trap_pvalue <= 0.05": layer.trap_pvalue is not None and layer.trap_pvalue <= 0.05,
        "under-trained": layer.warning == "under-trained",
        "over-trained": layer.warning == "over-trained",
    }


def words(kinds: dict[str, Callable[[Rng, int, int], Matrix]], count: int = 300) -> None:
    """Print the share of layers of which each word is said, for all shapes in one cell."""
    names = list(said(ww.LayerReport(name="", kind="")))
    print(f"% of {count} layers of " + ", ".join(f"{rows} x {columns}" for rows, columns in SHAPES))
    print("| kind | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for seed, (kind, draw) in enumerate(kinds.items()):
        cells: dict[str, list[str]] = {name: [] for name in names}
        for rows, columns in SHAPES:
            rng = np.random.default_rng([seed, rows, columns])
            layers = [said(ww.analyze({"layer": draw(rng, rows, columns)})["layer"]) for _ in range(count)]
            for name in names:
                cells[name].append(f"{100 * sum(each[name] for each in layers) / count:.3g}")
        print(f"| {kind} | " + " | ".join(" / ".join(cells[name]) for name in names) + " |", flush=True)


def traps(count: int = 100) -> None:
    """Print how often each planted cause lies above the edge, and how often its kind is named rightly then."""
    print("| planted | " + " | ".join(f"{rows} x {columns}" for rows, columns in SHAPES) + " |")
    for seed, (name, (kind, draw)) in enumerate(CAUSES.items()):
        cells = []
        for rows, columns in SHAPES:
            rng = np.random.default_rng([seed, rows, columns])
            kinds = [shuffled_control(draw(rng, rows, columns)).trap_kind for _ in range(count)]
            cells.append(f"{kinds.count(kind)} of {count - kinds.count(None)}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def cost(repeats: int = 7) -> None:
    """Median over repeats of the time of the test divided by the time of an analysis right after it."""
    rng = np.random.default_rng(0)
    print(f"on {platform.processor() or platform.machine()}, float32 weights")
    for shape in ((64, 64), (256, 128), (768, 768), (3072, 768), (64, 64, 3, 3), (256, 256, 3, 3)):
        for kind, scale in (("even", 1.0), ("uneven rows", scales(rng, shape[0], *[1] * (len(shape) - 1)))):
            W = (rng.standard_normal(shape) * scale).astype("f4")
            matrices = W.reshape(*shape[:2], -1).transpose(2, 0, 1)
            values = [eigenvalues(np.ascontiguousarray(matrix)) for matrix in matrices]
            tested, parts = matrices if len(matrices) > 1 else matrices[0], []
            for _ in range(repeats):
                start = time.perf_counter()
                null_test(tested, values[0])
                between = time.perf_counter()
                ww.analyze({"layer": W})
                parts.append((between - start) / (time.perf_counter() - between))
            print(f"{' x '.join(map(str, shape)):>18}, {kind}: {100 * statistics.median(parts):.1f} %", flush=True)


def networks(folder: Path) -> None:
    import torch

    for path in sorted(path for path in folder.iterdir() if path.suffix in (".th", ".tar")):
        state = torch.load(path, weights_only=True, map_location="cpu")
        layers = [layer for layer in ww.analyze(state.get("state_dict", state)).layers if layer.alpha is not None]
        missing = [
            f"{layer.name} ({layer.null}, p = {layer.null_pvalue:.2g})" for layer in layers if layer.null != "arranged"
        ]
        print(f"{path.name}: {len(layers) - len(missing)} of {len(layers)} arranged", *missing, sep="\n  ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fresh", "words", "held-out", "planted", "traps", "cost", "networks"])
    parser.add_argument("folder", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "networks":
        if arguments.folder is None:
            parser.error("networks needs a folder with state dicts")
        networks(arguments.folder)
    elif arguments.what == "cost":
        cost()
    elif arguments.what in ("words", "held-out"):
        words(FRESH if arguments.what == "words" else HELD_OUT)
    elif arguments.what == "traps":
        traps()
    else:
        table(FRESH if arguments.what == "fresh" else PLANTED, 300 if arguments.what == "fresh" else 200)


if __name__ == "__main__":
    main()
