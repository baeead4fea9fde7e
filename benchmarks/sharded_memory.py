"""Memory needed on each rank to monitor a sharded model: FSDP2 on two gloo processes, 220 MiB of weights.

    python benchmarks/sharded_memory.py

Each case is a new training of a few steps under Lightning's ModelParallelStrategy. The peak is the kernel's VmHWM.
Shared memory of the copies counts on the rank that maps it, which is the first. The other ranks are expected to hold at
most one whole layer. glibc keeps freed blocks below 32 MiB, so each case runs a second time with blocks of a MiB and
more returned immediately; the second peak is the memory that is really needed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIDE, LAYERS, STEPS = 2049, 13, 6
ALLOCATORS = {"freed blocks given back": {"MALLOC_MMAP_THRESHOLD_": str(2**20)}, "glibc's default": {}}
LAYER = 4 * SIDE * SIDE / 2**20


def peak() -> float:
    """Peak resident memory of this process in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def train(watched: bool, folder: str) -> None:
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.strategies import ModelParallelStrategy
    from torch import nn

    from ww_callbacks.lightning import SpectralMonitor

    torch.set_num_threads(1)

    class Module(pl.LightningModule):
        def configure_model(self) -> None:
            from torch.distributed.fsdp import fully_shard

            self.net = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)))
            mesh = self.device_mesh["data_parallel"]
            for layer in self.net:
                fully_shard(layer, mesh=mesh)
            fully_shard(self, mesh=mesh)

        def training_step(self, batch: Any, _index: int) -> Any:
            return self.net(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    monitor = SpectralMonitor(every_n_steps=2, randomize=False, timeout=300.0)
    trainer = pl.Trainer(
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        devices=2,
        accelerator="cpu",
        max_steps=STEPS,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[monitor] if watched else [],
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(4 * STEPS, SIDE), batch_size=2))
    found = {"peak": peak(), "steps": monitor.history.steps}
    Path(folder, f"{trainer.global_rank}.json").write_text(json.dumps(found))


def measure(watched: bool, allocator: dict[str, str]) -> list[Any]:
    """Measure the peak on each rank."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | allocator
        command = [sys.executable, __file__, "watched" if watched else "alone", folder]
        subprocess.run(command, env=environment, check=True, timeout=900, stderr=subprocess.DEVNULL)
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in (0, 1)]


def main() -> None:
    print(f"weights {LAYER * LAYERS:.0f} MiB in {LAYERS} layers of {LAYER:.1f} MiB")
    for name, allocator in ALLOCATORS.items():
        alone, watched = measure(False, allocator), measure(True, allocator)
        print(f"{name}: snapshots analysed at steps {watched[0]['steps']}", flush=True)
        for rank in (0, 1):
            before, after = alone[rank]["peak"], watched[rank]["peak"]
            print(f"  rank {rank}: peak {before:.0f} MiB alone, {after:.0f} MiB monitored, {after - before:+.0f} MiB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(sys.argv[1] == "watched", sys.argv[2])
    else:
        main()
