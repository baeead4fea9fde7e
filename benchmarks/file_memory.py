"""Memory and time of analysing a large folder of safetensors files: memory depends on the largest layer only.

    python benchmarks/file_memory.py --gib 6

Writes narrow matrices of this total size to a temporary folder, analyses it without the shuffled control, in this
process and in workers, and deletes it. Memory is the sum over the process and its workers, sampled 20 times a second.
Shared pages count once per process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

ROWS, COLUMNS, PER_SHARD = 262_144, 64, 8
LAYER_BYTES = ROWS * COLUMNS * 4
PROGRAM = """
import sys, ww_callbacks as ww
report = ww.analyze(sys.argv[1], randomize=False, workers=int(sys.argv[2]))
assert all(layer.status == "ok" for layer in report), [layer.reason for layer in report]
print(len(report.layers))
"""


def write_shards(folder: Path, layers: int) -> None:
    """Write shards and their index in the format of Hugging Face."""
    numbers = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    count, weight_map = -(-layers // PER_SHARD), {}
    for shard in range(count):
        file = f"model-{shard + 1:05d}-of-{count:05d}.safetensors"
        names = [f"layers.{i}.weight" for i in range(shard * PER_SHARD, min(layers, (shard + 1) * PER_SHARD))]
        weight_map |= dict.fromkeys(names, file)
        header = json.dumps(
            {
                name: {
                    "dtype": "F32",
                    "shape": [ROWS, COLUMNS],
                    "data_offsets": [index * LAYER_BYTES, (index + 1) * LAYER_BYTES],
                }
                for index, name in enumerate(names)
            }
        ).encode()
        with open(folder / file, "wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            for name in names:
                scale = np.linspace(1, 1 + int(name.split(".")[1]) % 7, COLUMNS, dtype=np.float32)
                (numbers * scale).tofile(out)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def measured(folder: Path, workers: int) -> tuple[float, float, int]:
    """Return the seconds, the peak of resident bytes, and the number of layers."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(workers)], stdout=subprocess.PIPE, text=True
    ) as child:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, resident(process))
            time.sleep(0.05)
        assert child.stdout is not None
        layers = int(child.stdout.read())
    return time.perf_counter() - start, peak, layers


def resident(process: psutil.Process) -> int:
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=6.0, help="size of the folder")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="0: in the main process")
    arguments = parser.parse_args()
    layers = max(1, round(arguments.gib * 2**30 / LAYER_BYTES))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, layers)
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{size / 2**30:.2f} GiB, {layers} layers of {LAYER_BYTES / 2**20:.0f} MiB")
        for workers in arguments.workers:
            seconds, peak, found = measured(folder, workers)
            print(
                f"workers={workers}: {seconds:.1f} s, {peak / 2**20:.0f} MiB resident at most, {found} layers",
                flush=True,
            )


if __name__ == "__main__":
    main()
