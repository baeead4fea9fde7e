"""One of two ranks is killed: the other one ends as it does without a monitor, and nothing of either is left."""

from __future__ import annotations

from typing import Any

import pytest
from fork_server import ForkServer
from programs import Session, session, wait_until

pytestmark = pytest.mark.timeout(150)

RANKS = 2
PHASES = ("before", "snapshot", "between", "finish")

TRAINING = """
import datetime, os, signal, sys, threading, time, traceback, warnings
import torch
from torch import nn
import torch.distributed as dist
from programs import reached, save, told
from ww_callbacks.monitor import Monitor
from ww_callbacks.torch import DistributedMonitor
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer

is_watched, victim, phase = sys.argv[1] == "watched", int(sys.argv[2]), sys.argv[3]
rank = int(os.environ["RANK"])

def die(now):
    if (rank, phase) == (victim, now):
        os.kill(os.getpid(), signal.SIGKILL)

def held(method, now):
    \"\"\"Rank 0 is in a phase, in which rank 1 waits for its message, when one of them dies.\"\"\"
    def call(*arguments):
        if phase == now:
            reached(now)
            die(now)
            time.sleep(1.0)
        return method(*arguments)
    return call

def die_when_reached():
    while not told(phase):
        time.sleep(0.01)
    die(phase)

SnapshotBuffer.take = held(SnapshotBuffer.take, "snapshot")
Monitor.finish = held(Monitor.finish, "finish")
if rank == victim == 1 and is_watched and phase in ("snapshot", "finish"):
    threading.Thread(target=die_when_reached, daemon=True).start()

meeting = f"file://{os.environ['WW_TEST_FOLDER']}/{sys.argv[1]}"
dist.init_process_group("gloo", meeting, datetime.timedelta(seconds=30), world_size=2, rank=rank)
torch.manual_seed(0)
model = nn.Linear(64, 60)
net = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

def train(monitor):
    for step in range(1, 13):
        net(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if monitor is not None:
            monitor.step(step)
        elif step == 5:
            die("snapshot")
        if step == 7:
            die("between")

outcome = "done"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        die("before")
        if is_watched:
            with DistributedMonitor(model, every_n_steps=5) as monitor:
                train(monitor)
        else:
            train(None)
            die("finish")
    except RuntimeError as error:
        places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        outcome = "in the monitor" if any("ww_callbacks" in place for place in places) else "in training"
ours = [str(each.message) for each in caught if "ww_callbacks" in str(each.message)]
save({"outcome": outcome, "warnings": ours}, f"rank{rank}.json")
os._exit(0)  # gloo's threads sometimes abort the process at exit, without this package too
"""


@pytest.fixture
def run(tmp_path):
    with session(tmp_path) as started:
        yield started


def survivor(run: Session, lightning: ForkServer, *arguments: str) -> Any:
    """Run both ranks. Return what the one that is not killed has saved."""
    programs = [
        run.start(
            TRAINING,
            *arguments,
            folder=run.folder / f"rank{rank}",
            environment={"RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"},
            server=lightning,
        )
        for rank in range(RANKS)
    ]
    victim = int(arguments[1])
    assert programs[victim].wait() == -9
    programs[1 - victim].succeed(timeout=60)
    run.assert_nothing_left(had_memory=False)
    return run.json(f"rank{1 - victim}.json")


def check(run: Session, lightning: ForkServer, victim: int, phase: str) -> None:
    found = survivor(run, lightning, "watched", str(victim), phase)
    assert found["outcome"] == ("done" if phase == "finish" else "in training")
    assert len(found["warnings"]) <= 1
    for message in found["warnings"]:
        assert "monitoring has ended, training continues: another rank cannot be reached" in message


@pytest.mark.parametrize("victim", range(RANKS))
def test_a_rank_killed_at_the_end_does_not_fail_the_other(run: Session, lightning: ForkServer, victim: int) -> None:
    check(run, lightning, victim, "finish")


@pytest.mark.slow
@pytest.mark.parametrize("time", range(3))
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victim", range(RANKS))
def test_the_other_rank_ends_as_it_does_without_a_monitor(
    run: Session, lightning: ForkServer, victim: int, phase: str, time: int
) -> None:
    bare = survivor(run, lightning, "bare", str(victim), phase)
    assert bare == {"outcome": "done" if phase == "finish" else "in training", "warnings": []}
    (run.folder / f"rank{1 - victim}.json").unlink()
    check(run, lightning, victim, phase)


LIGHTNING = """
import datetime, os, signal, sys
import torch
from torch import nn
import pytorch_lightning as pl
from programs import save
from ww_callbacks.lightning import SpectralMonitor

is_watched, victim, phase = sys.argv[1] == "watched", int(sys.argv[2]), sys.argv[3]

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 60)

    def training_step(self, batch, index):
        if (self.global_rank, phase, index) == (victim, "between", 7):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net(batch[0]).square().mean()

    def on_train_start(self):  # after those of the callbacks
        if (self.global_rank, phase) == (victim, "start"):
            os.kill(os.getpid(), signal.SIGKILL)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

trainer = pl.Trainer(
    strategy=pl.strategies.DDPStrategy(timeout=datetime.timedelta(seconds=30)), devices=2,
    accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
    enable_checkpointing=False, callbacks=[SpectralMonitor(every_n_steps=5)] if is_watched else [],
)
outcome = "done"
try:
    data = torch.utils.data.TensorDataset(torch.randn(192, 64))
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=8))
except RuntimeError as error:
    outcome = type(error).__name__
save(outcome, f"rank{trainer.global_rank}.json")
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("watched", ["bare", "watched"])
@pytest.mark.parametrize("phase", ["start", "between"])
@pytest.mark.parametrize("victim", range(RANKS))
def test_a_trainer_of_lightning_ends_as_without_a_monitor(
    run: Session, lightning: ForkServer, victim: int, phase: str, watched: str
) -> None:
    """Lightning starts the second rank from the first one, and ends what it started."""
    program = run.start(
        LIGHTNING, watched, str(victim), phase, environment={"GLOO_SOCKET_IFNAME": "lo"}, server=lightning
    )
    assert program.wait(100) == (-9 if victim == 0 else 0), program.output
    wait_until(lambda: (run.folder / f"rank{1 - victim}.json").exists(), "the other rank ends")
    assert run.json(f"rank{1 - victim}.json") == "RuntimeError"
    run.assert_nothing_left(timeout=20, had_memory=False)
