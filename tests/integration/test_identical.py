"""Training gives bitwise identical results with and without the monitor."""

from __future__ import annotations

import pytest
from programs import Session, session

pytestmark = pytest.mark.timeout(600)

STEPS = 250

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}

MODEL = """
import random, sys
import numpy as np
import torch
from torch import nn
import ww_callbacks as ww
from programs import save

STEPS = 250
watched, result = sys.argv[1] == "watched", sys.argv[2]
torch.set_num_threads(2)
random.seed(0), np.random.seed(0), torch.manual_seed(0)
net = nn.Sequential(
    nn.Linear(64, 400), nn.ReLU(), nn.Dropout(0.2), nn.Linear(400, 400), nn.ReLU(), nn.Dropout(0.2),
    nn.utils.parametrizations.spectral_norm(nn.Linear(400, 32)), nn.Linear(32, 8),
)
inputs, labels = torch.randn(512, 64), torch.randint(8, (512,))
losses = []

def store(history, name=result):
    state = {"weights": net.state_dict(), "losses": losses, "torch": torch.get_rng_state()}
    numpy_state = [part.tolist() if hasattr(part, "tolist") else part for part in np.random.get_state()]
    torch.save(state | {"other": repr([random.getstate(), numpy_state])}, name)
    if history is not None:
        layers = [layer for report in history for layer in report if layer.name[-1] == "3"]
        save([[layer.step, layer.status, layer.alpha] for layer in layers])
"""

LIGHTNING = """
import pytorch_lightning
from ww_callbacks.lightning import SpectralMonitor

class Module(pytorch_lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net

    def training_step(self, batch, index):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x + 0.01 * float(np.random.rand()) + 0.01 * random.random()), y)
        losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)

def fit(callback, steps=STEPS, ckpt_path=None, **options):
    trainer = pytorch_lightning.Trainer(
        max_steps=steps, max_epochs=-1, logger=False, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[callback] if watched else [], **options,
    )
    data = torch.utils.data.TensorDataset(inputs, labels)
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    trainer.fit(Module(), loader, ckpt_path=ckpt_path)
    return trainer

"""

WHOLE = """
callback = SpectralMonitor(every_n_steps=5)
fit(callback)
store(callback.history if watched else None)
if watched:
    save(callback.monitor.skipped, "skipped.json")
"""

RESUMED = """
fit(SpectralMonitor(every_n_steps=5), steps=STEPS // 2).save_checkpoint("half.ckpt")
callback = SpectralMonitor(every_n_steps=5)
fit(callback, ckpt_path="half.ckpt")
store(callback.history if watched else None)
if watched:
    save(callback.monitor.skipped, "skipped.json")
"""

TWO_RANKS = """
callback = SpectralMonitor(every_n_steps=5)
rank = fit(callback, strategy="ddp", devices=2).global_rank
store(callback.history if watched and rank == 0 else None, result if rank == 0 else f"second-{result}")
if watched and rank == 0:
    save(callback.monitor.skipped, "skipped.json")
"""

PLAIN = """
import contextlib
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
monitor = ww.Monitor(net, every_n_steps=5) if watched else None
with monitor or contextlib.nullcontext():
    for step in range(1, STEPS + 1):
        chosen = torch.randperm(512)[:32]
        noise = 0.01 * float(np.random.rand()) + 0.01 * random.random()
        loss = nn.functional.cross_entropy(net(inputs[chosen] + noise), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if monitor is not None:
            monitor.step(step)
store(monitor.history if watched else None)
if watched:
    save(monitor.skipped, "skipped.json")
"""


@pytest.fixture
def run(tmp_path):
    with session(tmp_path) as started:
        yield started


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(LIGHTNING + WHOLE, id="Lightning"),
        pytest.param(LIGHTNING + RESUMED, id="Lightning, resumed", marks=pytest.mark.slow),
        pytest.param(LIGHTNING + TWO_RANKS, id="Lightning, two ranks", marks=pytest.mark.slow),
        pytest.param(PLAIN, id="plain loop", marks=pytest.mark.slow),
    ],
)
def test_weights_losses_and_random_states_are_identical(run: Session, lightning, loop):
    torch = pytest.importorskip("torch")
    states = []
    for kind in ("alone", "watched"):
        program = run.start(MODEL + loop, kind, f"{kind}.pt", environment=LOOPBACK, server=lightning)
        program.succeed(timeout=280)
        states.append(torch.load(run.folder / f"{kind}.pt"))
    alone, watched = states
    assert len(alone["losses"]) == STEPS
    assert alone["losses"][-1] < alone["losses"][0]
    assert watched["losses"] == alone["losses"]
    assert watched["weights"].keys() == alone["weights"].keys()
    assert [
        name for name in alone["weights"] if not torch.equal(alone["weights"][name], watched["weights"][name])
    ] == []
    assert torch.equal(watched["torch"], alone["torch"])
    assert watched["other"] == alone["other"]

    layers, skipped = run.json(), run.json("skipped.json")
    assert (layers[0][0], layers[-1][0]) == (0, STEPS)
    assert all(status == "ok" and alpha > 1 for _, status, alpha in layers)
    assert len({alpha for *_, alpha in layers}) == len(layers) >= 2
    # Each was analysed or skipped. The last one may be both: skipped when it was due, then taken at the end.
    assert len(layers) + skipped - (STEPS // 5 + 1) in (0, 1)
    run.assert_nothing_left(timeout=20, had_memory=False)
