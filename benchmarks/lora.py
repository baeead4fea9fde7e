"""Low-rank adapters: CPU time and error of the analysis from the factors, relative to the dense product.

OMP_NUM_THREADS=1 python benchmarks/lora.py                          4096 x 4096 layer of rank 64
OMP_NUM_THREADS=1 python benchmarks/lora.py --side 1024 --rank 16    another one
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer, joined_factors
from ww_callbacks.spectra import eigenvalues, factor_singular_values

T = TypeVar("T")
COLUMNS = ("norm", "spectral_norm", "stable_rank", "entropy")


def timed(work: Callable[[], T], repeats: int) -> tuple[float, T]:
    """Median CPU time in seconds, and the result."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        times.append(time.process_time() - start)
    return statistics.median(times), result


def processor() -> str:
    """The name of the processor."""
    with open("/proc/cpuinfo") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=64)
    arguments = parser.parse_args()
    side, rank = arguments.side, arguments.rank
    rng = np.random.default_rng(0)
    B = (rng.standard_normal((side, rank)) * 0.9 ** np.arange(rank)).astype(np.float32)
    A = rng.standard_normal((rank, side)).astype(np.float32)
    stored = joined_factors(B, A)
    low = LayerSpec("low", "LoRA", stored.shape, "float32", ((), (), ()), "adapter", factors=side)
    full = LayerSpec("full", "Linear", (side, side), "float64", ((), (0,), (1,)))
    product = B.astype(np.float64) @ A.astype(np.float64)
    settings = Settings(randomize=False, spectrum=True)
    fast, found = timed(lambda: analyze_layer(low, stored, settings), repeats=9)
    slow, expected = timed(lambda: analyze_layer(full, product, settings), repeats=1)
    eigen, _ = timed(lambda: eigenvalues(product), repeats=1)
    factors, _ = timed(lambda: factor_singular_values(B, A), repeats=9)
    exact = np.linalg.svd(product, compute_uv=False)[:rank]
    values = np.sqrt(found.spectrum[::-1][:rank])
    errors = [abs(getattr(found, name) / getattr(expected, name) - 1) for name in COLUMNS]
    print(f"{side} x {side}, rank {rank}, {processor()}")
    print(f"analysis: {fast:.3f} s from the factors, {slow:.1f} s dense without a control: {100 * fast / slow:.2g} %")
    print(f"eigenvalues alone: {factors:.3f} s from the factors, {eigen:.1f} s dense: {100 * factors / eigen:.2g} %")
    print(f"largest relative error of the {rank} singular values: {np.max(np.abs(values / exact - 1)):.1e}")
    print(f"largest relative error of {', '.join(COLUMNS)}: {max(errors):.1e}")


if __name__ == "__main__":
    main()
