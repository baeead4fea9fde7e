"""Several ranks: the first one monitors, all have the same results, and only snapshots send messages."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from fork_server import ForkServer
from programs import Session, session, wait_until

import ww_callbacks as ww

pytestmark = pytest.mark.timeout(300)

RANKS = 2

TRAINING = """
import os, sys
import torch
from torch import nn
import torch.distributed as dist
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from programs import save
from ww_callbacks.lightning import LayerwiseLearningRate, SpectralMonitor

torch.set_num_threads(1)

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(*(nn.Linear(60, 60) for _ in range(4)), nn.Linear(60, 4))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class MessageCounter(pl.Callback):
    \"\"\"Counts the messages that the hooks of a callback send: one instance before the callback, one after it.\"\"\"
    now = []

    def __init__(self, first):
        self.first = first

    def _record(self, trainer, hook):
        number = dist.distributed_c10d._get_default_group()._get_sequence_number_for_group()
        if self.first:
            MessageCounter.before = number
        else:
            known = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("ww/")}
            ratios = layerwise._layerwise.ratios() if layerwise._layerwise is not None else {}
            MessageCounter.now.append([hook, trainer.global_step, number - MessageCounter.before, known, ratios])

    def on_train_start(self, trainer, module):
        self._record(trainer, "start")

    def on_train_batch_end(self, trainer, *_):
        self._record(trainer, "batch")

    def on_validation_start(self, trainer, module):
        self._record(trainer, "validation")

    def on_train_epoch_end(self, trainer, module):
        self._record(trainer, "epoch")

    def on_train_end(self, trainer, module):
        self._record(trainer, "end")

def data():
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(192, 60, generator=generator)
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(pictures, torch.randint(0, 4, (192,), generator=generator)), batch_size=8
    )
"""

WATCHED = """
monitor = SpectralMonitor(every_n_steps=5, deterministic=True)
layerwise = LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=1)
stopping = EarlyStopping(monitor="ww/alpha", mode="min", patience=1, min_delta=100.0, check_on_train_epoch_end=True)
trainer = pl.Trainer(
    strategy="ddp", devices=2, accelerator="cpu", max_epochs=9, logger=False, enable_progress_bar=False,
    enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
    callbacks=[MessageCounter(True), monitor, MessageCounter(False), layerwise, stopping],
)
module = Module()
trainer.fit(module, data(), data())
save({
    "seen": MessageCounter.now, "steps": monitor.history.steps, "ended": [trainer.global_step, trainer.current_epoch],
    "weights": [float(p.detach().double().sum()) for p in module.parameters()],
    "has_monitor": monitor.monitor is not None,
}, f"rank{trainer.global_rank}.json")
"""


@pytest.fixture
def run(tmp_path):
    with session(tmp_path) as started:
        yield started


def run_ranks(run: Session, lightning: ForkServer, code: str, *arguments: str) -> list[Any]:
    """Run a script, which Lightning starts again for the second rank. Return what each rank saved."""
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    run.start(code, *arguments, environment=environment, server=lightning).succeed(timeout=200)
    files = [run.folder / f"rank{rank}.json" for rank in range(RANKS)]
    wait_until(lambda: all(file.exists() for file in files), "every rank has saved")
    run.assert_nothing_left(timeout=20, had_memory=False)
    return [run.json(file.name) for file in files]


def test_ranks_have_the_same_results_and_only_snapshots_send_messages(run: Session, lightning: ForkServer) -> None:
    first, second = run_ranks(run, lightning, TRAINING + WATCHED)

    # One rank monitors.
    assert (first["has_monitor"], second["has_monitor"]) == (True, False)
    assert first["steps"] == [0, 5, 10, 15, 20, 24]
    assert second["steps"] == []

    # Metrics, ratios, messages and the stop are the same on both ranks at each hook.
    assert first["seen"] == second["seen"]
    assert first["ended"] == second["ended"] == [24, 2]
    assert first["weights"] == second["weights"]
    by_hook = {name: [row for row in first["seen"] if row[0] == name] for name in ("batch", "start", "end", "epoch")}
    assert [row[1] for row in by_hook["batch"]] == list(range(1, 25))
    assert any(ratio != 1 for row in by_hook["batch"] for ratio in row[4].values())

    # The broadcast of an object takes two messages: its length and its content.
    assert [row[1] for row in by_hook["batch"] if row[2] != 0] == [5, 10, 15, 20]
    assert {row[2] for row in by_hook["batch"]} == {0, 2}
    assert [row[2] for row in by_hook["start"] + by_hook["end"]] == [2, 2]
    assert [row[2] for row in by_hook["epoch"]] == [0, 0]
    changes = [
        after[1] for before, after in zip(by_hook["batch"], by_hook["batch"][1:], strict=False) if before[3] != after[3]
    ]
    assert set(changes) <= {5, 10, 15, 20}


FAILING = """
trainer = pl.Trainer(
    strategy="ddp", devices=2, accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
    enable_model_summary=False, enable_checkpointing=False, callbacks=[SpectralMonitor(layers=["nett.*"])],
)
try:
    trainer.fit(Module(), data())
except Exception as error:
    save(f"{type(error).__name__}: {error}", f"rank{trainer.global_rank}.json")
"""


@pytest.mark.slow
def test_error_on_the_first_rank_is_raised_on_all_ranks(run: Session, lightning: ForkServer) -> None:
    first, second = run_ranks(run, lightning, TRAINING + FAILING)
    assert first.startswith("ValueError: layers: 'nett.*' matches no layer")
    assert second.startswith("RuntimeError: ww_callbacks failed on the first rank: ValueError: layers: 'nett.*'")


SHARDED = """
from pytorch_lightning.strategies import ModelParallelStrategy
import ww_callbacks as ww

class Sharded(Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(60, 61), nn.Linear(61, 55), nn.Linear(55, 3, bias=False), nn.Linear(3, 4))

    def configure_model(self):
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
        mesh, policy = self.device_mesh["data_parallel"], MixedPrecisionPolicy(param_dtype=torch.bfloat16)
        for layer in self.net:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(self, mesh=mesh, mp_policy=policy)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.net(batch[0]).float(), batch[1])

    def validation_step(self, batch, index):
        self.net(batch[0])

class ExpectedNorms(pl.Callback):
    \"\"\"Computes the expected norms from the full weights, which every rank gathers.\"\"\"
    norms = {}

    def _record(self, trainer, module):
        if trainer.global_step % 5 == 0 or trainer.global_step == 24:
            whole = {name: p.full_tensor().double() for name, p in module.named_parameters() if p.ndim == 2}
            norms = {name: float(w.square().sum().log10()) for name, w in whole.items()}
            ExpectedNorms.norms[trainer.global_step] = norms

    def on_train_start(self, trainer, module):
        self._record(trainer, module)

    def on_train_batch_end(self, trainer, module, *_):
        self._record(trainer, module)

monitor, layerwise = SpectralMonitor(every_n_steps=5), LayerwiseLearningRate()
strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
trainer = pl.Trainer(
    strategy=strategy, devices=2, accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
    enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
    callbacks=[ExpectedNorms(), MessageCounter(True), monitor, MessageCounter(False)],
)
module = Sharded()
trainer.fit(module, data(), data())
save({
    "seen": MessageCounter.now, "expected": ExpectedNorms.norms,
    "shards": [list(p.to_local().shape) for p in module.parameters()],
    "found": {r.step: {l.name: l.log_norm for l in r if l.log_norm is not None} for r in monitor.history},
    "kinds": [[l.name, l.status, l.reason] for l in monitor.history[-1]] if len(monitor.history) else [],
}, f"rank{trainer.global_rank}.json")
"""


@pytest.mark.slow
def test_sharded_weights_are_gathered_layer_by_layer_and_kept_by_the_first_rank(
    run: Session, lightning: ForkServer
) -> None:
    first, second = run_ranks(run, lightning, TRAINING + SHARDED)
    assert first["shards"][0] == [31, 60]
    assert second["shards"][0] == [30, 60]  # uneven
    assert first["expected"] == second["expected"]
    steps = {int(step) for step in first["found"]}
    assert {0, 24} <= steps <= {0, 5, 10, 15, 20, 24}
    assert second["found"] == {}
    for step, norms in first["found"].items():
        wanted = {name.removesuffix(".weight"): norm for name, norm in first["expected"][step].items()}
        assert norms == pytest.approx({name: wanted[name] for name in norms}, rel=1e-9)
        assert {"net.0", "net.1"} <= set(norms)
    assert first["seen"] == second["seen"]
    batches = [row for row in first["seen"] if row[0] == "batch"]
    assert [row[1] for row in batches if row[2] != 0] == [5, 10, 15, 20]
    # A skipped snapshot takes only the broadcast. Any other also takes a number (two messages) and a gather for each
    # of the four weights.
    for _, step, messages, *_ in batches:
        assert messages == (0 if step % 5 else 2 + 4 * 3 * (step in steps))


STOPPED = """
from ww_callbacks.lightning import SpectralEarlyStopping

class Trapped(Module):
    def training_step(self, batch, index):
        if self.global_step == 10:
            with torch.no_grad():
                self.net[0].weight[3, 4] = 8.0  # one very large weight is a correlation trap
        return super().training_step(batch, index)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)

monitor = SpectralMonitor(every_n_steps=5, deterministic=True)
stopping = SpectralEarlyStopping(rules=["traps"], patience=2)
trainer = pl.Trainer(
    strategy="ddp", devices=2, accelerator="cpu", max_epochs=9, logger=False, enable_progress_bar=False,
    enable_model_summary=False, enable_checkpointing=False, callbacks=[stopping, monitor],
)
trainer.fit(Trapped(), data())
save([trainer.global_step, stopping.state_dict()], f"rank{trainer.global_rank}.json")
"""


@pytest.mark.slow
def test_all_ranks_stop_at_the_same_step_for_the_same_reason(run: Session, lightning: ForkServer) -> None:
    first, second = run_ranks(run, lightning, TRAINING + STOPPED)
    assert first == second
    step, state = first
    assert (step, state["stopped_step"]) == (26, 25)  # the callback runs before the monitor, so it stops one step later
    assert state["stopped_reason"].startswith(
        "traps at step 20 (stopped at 25): net.0 has 1 correlation trap at step 20"
    )


LOOP = """
import torch, torch.distributed as dist
from torch import nn
from lightning.fabric import Fabric
from programs import save
from ww_callbacks.signals.signal import Judgement
from ww_callbacks.torch import DistributedMonitor

class StopAtThirdReport:
    def judge(self, history):
        return Judgement(verdict={"stop": len(history) >= 3})

torch.set_num_threads(1)
fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 60))
model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
number = dist.distributed_c10d._get_default_group()._get_sequence_number_for_group
seen = []
monitor = DistributedMonitor(model, every_n_steps=5, deterministic=True, randomize=False)
monitor.attach("stop", StopAtThirdReport())
with monitor:
    for step in range(1, 40):
        fabric.backward(model(torch.randn(8, 64)).square().mean())
        optimizer.step()
        optimizer.zero_grad()
        before = number()
        monitor.step(step)
        seen.append([step, number() - before, dict(monitor.metrics), monitor.should_stop])
        if monitor.should_stop:
            break
save({"seen": seen, "steps": monitor.history.steps, "last": dict(monitor.metrics)}, f"rank{fabric.global_rank}.json")
"""


@pytest.mark.slow
def test_fabric_loop_stops_at_the_same_step_on_all_ranks(run: Session, lightning: ForkServer) -> None:
    pytest.importorskip("lightning.fabric")
    first, second = run_ranks(run, lightning, LOOP)
    assert first["seen"] == second["seen"]
    assert [row[0] for row in first["seen"] if row[1]] == [5, 10, 15]
    assert first["seen"][-1][0] == 15
    assert (first["steps"], second["steps"]) == ([0, 5, 10, 15], [])
    assert first["last"] == second["last"]


RESUMED = """
class MetricsAtStart(pl.Callback):
    def on_train_start(self, trainer, module):
        MetricsAtStart.known = {key: float(v) for key, v in trainer.callback_metrics.items() if key.startswith("ww/")}

first = sys.argv[1] == "first"
monitor = SpectralMonitor(every_n_steps=5, deterministic=True)
trainer = pl.Trainer(
    strategy="ddp", devices=2, accelerator="cpu", max_epochs=-1, max_steps=12 if first else 24, logger=False,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    callbacks=[monitor, LayerwiseLearningRate(shrink=False, apply=True), MetricsAtStart()],
)
trainer.fit(Module(), data(), ckpt_path=None if first else "first.ckpt")
trainer.save_checkpoint("first.ckpt" if first else "second.ckpt", weights_only=False)
save([monitor.history.steps, MetricsAtStart.known, dict(monitor.published.metrics)], f"rank{trainer.global_rank}.json")
"""


@pytest.mark.slow
def test_resumed_training_starts_with_the_saved_metrics_on_all_ranks(run: Session, lightning: ForkServer) -> None:
    before = run_ranks(run, lightning, TRAINING + RESUMED, "first")
    for rank in range(RANKS):
        (run.folder / f"rank{rank}.json").unlink()
    first, second = run_ranks(run, lightning, TRAINING + RESUMED, "second")
    assert (first[0], second[0]) == ([0, 5, 10, 12, 15, 20, 24], [])
    assert first[1] == second[1] == pytest.approx(before[0][2], rel=1e-6)  # single precision
    assert before[0][2] == before[1][2]
    assert first[2] == second[2]
    assert "ww/alpha" in first[1]


TRANSFORMERS = """
import os
import torch
import transformers
from programs import save
from ww_callbacks.huggingface import SpectralMonitor
from ww_callbacks.signals.signal import Judgement

torch.set_num_threads(1)
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=80, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2,
)
rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 64, (96, 8))]
seen = []

class MetricsRecorder(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        seen.append([state.global_step, dict(monitor.published.metrics)])

monitor = SpectralMonitor(every_n_steps=3, deterministic=True, randomize=False)
trainer = transformers.Trainer(
    transformers.LlamaForCausalLM(config),
    transformers.TrainingArguments(
        "out", max_steps=10, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True, ddp_backend="gloo",
        per_device_train_batch_size=4,
    ),
    train_dataset=rows,
    callbacks=[monitor, MetricsRecorder()],
)
trainer.train()
save({"seen": seen, "steps": monitor.history.steps, "ranks": trainer.args.world_size}, f"rank{os.environ['RANK']}.json")
torch.distributed.destroy_process_group()
os._exit(0)  # gloo's threads sometimes abort the process at exit, without this package too
"""


@pytest.mark.slow
def test_transformers_ranks_have_the_same_results(run: Session) -> None:
    pytest.importorskip("transformers")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"} for rank in range(RANKS)]
    programs = [run.start(TRANSFORMERS, environment=common | rank) for rank in ranks]
    for program in programs:
        program.succeed(timeout=200)
    run.assert_nothing_left(timeout=20, had_memory=False)
    first, second = (run.json(f"rank{rank}.json") for rank in range(RANKS))
    assert (first["ranks"], first["steps"], second["steps"]) == (2, [0, 3, 6, 9, 10], [])
    assert first["seen"] == second["seen"]
    assert first["seen"][-1][1]["ww/alpha"] > 1


CHECKPOINT = """
import os, sys
import torch
from torch import nn
import torch.distributed as dist
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from programs import save
import ww_callbacks as ww

torch.set_num_threads(1)
dist.init_process_group("gloo")
for kind in ("fsdp", "tensor parallel"):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(60, 81), nn.ReLU(), nn.Linear(81, 55))
    expected = [[layer.name, layer.alpha, layer.norm] for layer in ww.analyze(net)]
    if kind == "fsdp":
        fully_shard(net, mesh=init_device_mesh("cpu", (2,)))
    else:
        parallelize_module(net, init_device_mesh("cpu", (2,)), {"0": ColwiseParallel(), "2": RowwiseParallel()})
    checkpoint.save({"model": net.state_dict()}, checkpoint_id=os.path.join(os.environ["WW_TEST_FOLDER"], kind))
    if dist.get_rank() == 0:
        save(expected, f"{kind}.json")
dist.barrier()
dist.destroy_process_group()
"""


def test_a_checkpoint_of_two_ranks_has_the_report_of_the_whole_model(run: Session, lightning: ForkServer) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(RANKS)}
    programs = [
        run.start(CHECKPOINT, environment=common | {"RANK": str(rank)}, server=lightning) for rank in range(RANKS)
    ]
    for program in programs:
        program.succeed(timeout=120)
    for kind in ("fsdp", "tensor parallel"):
        assert len(list((run.folder / kind).glob("*.distcp"))) == RANKS
        report = ww.analyze(run.folder / kind)
        assert [[layer.name, layer.alpha, layer.norm] for layer in report] == run.json(f"{kind}.json")
    run.assert_nothing_left(had_memory=False)
