"""Snapshots of weights on a GPU: time that training waits, and correctness of the copies.

    python benchmarks/gpu_snapshot.py [--mib 512] [--layers 16] [--rounds 20]

Without a CUDA device it prints a message and exits with status 2.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial

import numpy as np

from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512, help="size of all weights")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("torch is not installed: nothing was measured")
        return 2
    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} found no CUDA device: nothing was measured")
        return 2
    return measure(arguments.mib, arguments.layers, arguments.rounds)


def measure(mib: int, layers: int, rounds: int) -> int:
    import torch

    from ww_callbacks.weights.torch import stored_array
    from ww_callbacks.weights.torch.device import send

    side = int((mib * 2**20 / layers / 4) ** 0.5)
    weights = [torch.randn(side, side, device="cuda") for _ in range(layers)]
    buffer = SnapshotBuffer([((side, side), np.dtype("f4"))] * layers, slots=1)
    held, waited, arriving = [], [], []
    for number in range(rounds):
        expected = [tensor.clone() for tensor in weights]
        torch.cuda.synchronize()
        start = time.perf_counter()
        slot = buffer.take([partial(send, tensor, stored_array) for tensor in weights])
        held.append(time.perf_counter() - start)
        assert slot is not None
        for tensor in weights:
            tensor.mul_(1.001).add_(number)  # the next update, which must not affect the snapshot
        while not buffer.arrived(slot):
            time.sleep(0.0005)
        arriving.append(time.perf_counter() - start)
        for index, tensor in enumerate(expected):
            assert np.array_equal(buffer.array(slot, index), tensor.cpu().numpy()), "not the weights of the snapshot"
        buffer.release(slot)
        start = time.perf_counter()
        for tensor in weights:
            stored_array(tensor)
        waited.append(time.perf_counter() - start)
    print(f"{torch.cuda.get_device_name()}, {layers} layers of {side} × {side}, {buffer.nbytes / 2**20:.0f} MiB")
    for name, seconds in [("training held up", held), ("in shared memory after", arriving), ("plain .cpu()", waited)]:
        print(f"{name:>24}: {1000 * statistics.median(seconds[1:]):8.2f} ms")
    print("every snapshot contained the weights at its step")
    return 0


if __name__ == "__main__":
    sys.exit(main())
