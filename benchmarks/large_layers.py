"""Time and memory of a finished model with many small layers, and of one with a very large embedding.

    python benchmarks/large_layers.py many --layers 5000 --side 64 256
    python benchmarks/large_layers.py embedding --rows 256000 --columns 4096

Writes random weights to a safetensors file in a temporary folder, in pieces, and analyses it in a separate process
with one thread. Memory is the peak of what was resident in that process, beside that of a process that only imports
the package.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from analysis import processor

PROGRAM = """
import resource, sys, time
import ww_callbacks as ww
begin = time.process_time()
if len(sys.argv) > 1:
    report = ww.analyze(sys.argv[1], layers=sys.argv[2:] or None)
    assert all(layer.status == "ok" for layer in report), {layer.reason for layer in report}
print(time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
PIECE = 4096
"""Rows that are made at a time."""


class Measured(NamedTuple):
    """Seconds of processor time, and the peak of resident bytes."""

    seconds: float
    peak: float


def write(path: Path, shapes: Mapping[str, tuple[int, int]], dtype: str) -> int:
    """Write weights whose columns have different scales to a safetensors file; returns their bytes."""
    itemsize = {"F32": 4, "BF16": 2}[dtype]
    position, header = 0, {}
    for name, (rows, columns) in shapes.items():
        end = position + rows * columns * itemsize
        header[name] = {"dtype": dtype, "shape": [rows, columns], "data_offsets": [position, end]}
        position = end
    text, rng = json.dumps(header).encode(), np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for rows, columns in shapes.values():
            for start in range(0, rows, PIECE):
                numbers = rng.standard_normal((min(PIECE, rows - start), columns), dtype=np.float32)
                numbers *= np.linspace(1, 4, columns, dtype=np.float32)
                (numbers if dtype == "F32" else (numbers.view(np.uint32) >> 16).astype(np.uint16)).tofile(file)
    return position


def measured(*arguments: str) -> Measured:
    """Run the program in a new process with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-c", PROGRAM, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | threads).stdout
    return Measured(*map(float, output.split()))


def many(path: Path, layers: int, sides: list[int]) -> None:
    """Layers of several sizes, in turn."""
    shapes = {f"layers.{index}.weight": (sides[index % len(sides)],) * 2 for index in range(layers)}
    size, empty = write(path, shapes, "F32"), measured()
    found = measured(str(path))
    more, largest = found.peak - empty.peak, max(sides) ** 2 * 4
    print(f"{layers} layers of {' and '.join(f'{side} x {side}' for side in sides)}, {size / 2**20:.0f} MiB of float32")
    print(
        f"{found.seconds:.0f} s, {1000 * found.seconds / layers:.1f} ms per layer; {more / 2**20:.0f} MiB beside the "
        f"{empty.peak / 2**20:.0f} MiB of the package: {more / size:.2f} times the weights, {more / largest:.0f} times "
        "the largest layer"
    )


def embedding(path: Path, rows: int, columns: int) -> None:
    """One embedding in bfloat16, which ``layers=`` names because it has many rows."""
    size, empty = write(path, {"embed_tokens.weight": (rows, columns)}, "BF16"), measured()
    found = measured(str(path), "embed_tokens")
    more = found.peak - empty.peak
    print(f"{rows} x {columns}, {size / 2**30:.2f} GiB of bfloat16")
    print(
        f"{found.seconds:.0f} s; {more / 2**30:.2f} GiB beside the {empty.peak / 2**20:.0f} MiB of the package: "
        f"{more / size:.2f} times the weight"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["many", "embedding"])
    parser.add_argument("--layers", type=int, default=5000)
    parser.add_argument("--side", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--rows", type=int, default=256_000)
    parser.add_argument("--columns", type=int, default=4096)
    arguments = parser.parse_args()
    print(f"{processor()}, Python {platform.python_version()}, numpy {np.__version__}, one thread", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        if arguments.part == "many":
            many(path, arguments.layers, arguments.side)
        else:
            embedding(path, arguments.rows, arguments.columns)


if __name__ == "__main__":
    main()
