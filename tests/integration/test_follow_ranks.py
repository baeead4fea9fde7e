"""Checkpoints of two ranks that divide a model in every way: following them gives the report of the whole model."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fork_server import ForkServer
from programs import Session, session

import ww_callbacks as ww

pytestmark = pytest.mark.timeout(300)

RANKS = 2

TRAINING = """
import os
import torch
from torch import nn
import torch.distributed as dist
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, mesh = dist.get_rank(), init_device_mesh("cpu", (2,))

class Experts(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(count, 64, 81))

class Block(nn.Module):
    "A router and stacked experts, or experts with their own names."
    def __init__(self, experts):
        super().__init__()
        self.router, self.experts = nn.Linear(64, 55), experts

def dense():
    return nn.Sequential(nn.Linear(60, 81), nn.ReLU(), nn.Linear(81, 55))

def stacked():
    return Block(Experts(4))

def named():
    return Block(nn.ModuleList(nn.Linear(64, 81) for _ in range(4)))

def fsdp1():
    return FullyShardedDataParallel(dense(), device_id=torch.device("cpu"))

def mine(model, prefixes):
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefixes)}

def experts_as_one_tensor():
    state = stacked().state_dict()
    return state | {"experts.w1": distribute_tensor(state["experts.w1"], mesh, [Shard(0)])}

def experts_as_names():
    return mine(named(), ("router", f"experts.{2 * rank}.", f"experts.{2 * rank + 1}."))

def tensor_parallel():
    return parallelize_module(dense(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()}).state_dict()

def fsdp1_full():
    model = fsdp1()
    model(torch.ones(1, 60))  # FSDP1 is set up by the first forward pass
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT):
        return model.state_dict()

def fsdp2_full():
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(fully_shard(dense(), mesh=mesh), options=options)

def make(function):
    torch.manual_seed(0)
    return function()

# Way of training -> what a rank saves together with the other, and the whole model.
TOGETHER = {
    "ddp": (lambda: nn.parallel.DistributedDataParallel(dense()).state_dict(), dense),
    "fsdp1": (lambda: get_model_state_dict(fsdp1()), dense),
    "fsdp2": (lambda: fully_shard(dense(), mesh=mesh).state_dict(), dense),
    "tensor parallel": (tensor_parallel, dense),
    "pipeline parallel": (lambda: mine(dense(), ("0.", "2.")[rank]), dense),
    "expert parallel, one tensor": (experts_as_one_tensor, stacked),
    "expert parallel, names": (experts_as_names, named),
}
for way, (state, whole) in TOGETHER.items():
    checkpoint.save({"model": make(state)}, checkpoint_id=f"{way}/step-7")
    if rank == 0:
        torch.save(make(whole).state_dict(), f"{way}.pt")

# The first rank saves the whole model.
for way, state_of in {"fsdp1, full": fsdp1_full, "fsdp2, full": fsdp2_full}.items():
    state = make(state_of)
    if rank == 0:
        os.makedirs(way)
        torch.save({"model": state}, f"{way}/step-7.pt")
        torch.save(make(dense).state_dict(), f"{way}.pt")

# Each rank saves its own file.
os.makedirs("files of stages/step-7", exist_ok=True)
os.makedirs("files of shards/step-7", exist_ok=True)
torch.save(make(lambda: mine(dense(), ("0.", "2.")[rank])), f"files of stages/step-7/stage{rank}.pt")
torch.save(make(lambda: fully_shard(dense(), mesh=mesh).state_dict()), f"files of shards/step-7/rank{rank}.pt")
if rank == 0:
    torch.save(make(dense).state_dict(), "files of stages.pt")
dist.barrier()
dist.destroy_process_group()
"""

SAME = [
    "ddp",
    "fsdp1",
    "fsdp2",
    "tensor parallel",
    "pipeline parallel",
    "expert parallel, one tensor",
    "expert parallel, names",
    "fsdp1, full",
    "fsdp2, full",
    "files of stages",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, lightning: ForkServer) -> Iterator[Path]:
    """The folder with the checkpoints of every way, and of each whole model."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(RANKS)}
    with session(tmp_path_factory.mktemp("ranks")) as run:
        ranks: Session = run
        programs = [
            ranks.start(TRAINING, environment=common | {"RANK": str(rank)}, server=lightning) for rank in range(RANKS)
        ]
        for program in programs:
            program.succeed(timeout=200)
        ranks.assert_nothing_left(had_memory=False)
        yield ranks.folder


@pytest.mark.slow
@pytest.mark.parametrize("way", SAME)
def test_following_gives_the_report_of_the_whole_model(trained: Path, way: str) -> None:
    history = ww.follow(trained / way, once=True, figures=False)
    assert history.steps == [7]
    found = {layer.name: layer.to_dict() | {"kind": None, "step": None} for layer in history[0]}
    expected = {
        layer.name: layer.to_dict() | {"kind": None, "step": None} for layer in ww.analyze(trained / f"{way}.pt")
    }
    assert found == expected
    assert any(layer.alpha is not None for layer in history[0])


@pytest.mark.slow
def test_shards_are_never_analysed_as_layers(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="no checkpoints"):
        ww.follow(trained / "files of shards", once=True, figures=False)
    assert "step-7: left out: " in caplog.text
