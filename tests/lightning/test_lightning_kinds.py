"""Trainings of every kind under Lightning: low precision, validations inside, two monitors, Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

torch = pytest.importorskip("torch")
pl = pytest.importorskip("pytorch_lightning")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

import ww_callbacks as ww  # noqa: E402
from ww_callbacks.lightning import SpectralMonitor  # noqa: E402

pytestmark = pytest.mark.timeout(180)


class Network(pl.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(80, 60), nn.ReLU(), nn.Linear(60, 55), nn.ReLU(), nn.Linear(55, 4))

    def training_step(self, batch: Any, _index: int) -> Any:
        return self.net(batch.to(self.net[0].weight.dtype)).square().mean()

    def validation_step(self, batch: Any, _index: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data() -> Any:
    return DataLoader(torch.randn(96, 80, generator=torch.Generator().manual_seed(0)), 8)


def trainer_of(tmp_path: Path, *callbacks: Any, **arguments: Any) -> Any:
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": tmp_path,
    }
    return pl.Trainer(callbacks=list(callbacks), **(defaults | arguments))


@pytest.fixture(autouse=True)
def nothing_survives() -> Any:
    yield
    workers = [p for p in psutil.Process().children(recursive=True) if "ww_callbacks.worker" in p.cmdline()]
    assert not workers


def test_weights_of_sixteen_bits_are_analysed_as_they_are(tmp_path: Path) -> None:
    monitor = SpectralMonitor(every_n_steps=5, deterministic=True, executor="thread")
    model = Network()
    trainer_of(tmp_path, monitor, precision="bf16-true").fit(model, data())
    assert model.net[0].weight.dtype == torch.bfloat16
    assert monitor.history.steps == [0, 5, 10, 12]
    expected = ww.analyze({"net.0": model.net[0].weight.detach().float().numpy()})
    assert monitor.history[-1]["net.0"].alpha == pytest.approx(expected["net.0"].alpha, rel=1e-6)


def test_validations_inside_and_around_a_training_change_nothing(tmp_path: Path) -> None:
    monitor = SpectralMonitor(every_n_steps=5, deterministic=True, executor="thread")
    trainer = trainer_of(tmp_path, monitor, val_check_interval=3, num_sanity_val_steps=2)
    model = Network()
    trainer.validate(model, data(), verbose=False)
    trainer.fit(model, data(), data())
    assert monitor.history.steps == [0, 5, 10, 12]
    trainer.validate(model, data(), verbose=False)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, data(), data())
    assert monitor.history.steps == [0, 5, 10, 12, 15, 20, 24]


def test_two_trainings_in_one_process_do_not_meet(tmp_path: Path) -> None:
    inner = SpectralMonitor(every_n_steps=4, deterministic=True, figures=False)

    class Inside(pl.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 7:
                trainer_of(tmp_path, inner).fit(Network(), data())

    outer = SpectralMonitor(every_n_steps=5, deterministic=True, figures=False)
    trainer_of(tmp_path, outer, Inside()).fit(Network(), data())
    assert (outer.history.steps, inner.history.steps) == ([0, 5, 10, 12], [0, 4, 8, 12])
    assert outer.history[-1].summary() == pytest.approx(inner.history[-1].summary())


def test_ctrl_c_leaves_the_results_so_far(tmp_path: Path) -> None:
    class CtrlC(pl.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 17:
                signal.raise_signal(signal.SIGINT)

    monitor = SpectralMonitor(every_n_steps=5, deterministic=True, jsonl=True)
    trainer = trainer_of(tmp_path, monitor, CtrlC(), max_epochs=-1, max_steps=-1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            trainer.fit(Network(), data())
    finally:
        signal.signal(signal.SIGINT, before)
    assert monitor.history.steps == [0, 5, 10]
    assert list(ww.read_jsonl(tmp_path / "ww_history.jsonl")) == list(monitor.history)
    assert set(monitor.published.metrics) >= {"ww/alpha", "ww/skipped"}
    assert monitor.monitor is not None
    assert monitor.monitor.closed
