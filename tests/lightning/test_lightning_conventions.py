"""What users of Lightning expect of a callback: names, states, messages, progress bars."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from ww_callbacks.lightning import LayerwiseLearningRate, SpectralEarlyStopping, SpectralMonitor

pytestmark = pytest.mark.timeout(300)

TRAP = 2
"""The step after which a layer has a trap."""


class Network(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.actor, self.critic = nn.Linear(60, 60), nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 4))

    def training_step(self, batch: Any, _index: int) -> torch.Tensor:
        if self.global_step == TRAP:
            with torch.no_grad():
                self.actor.weight[3, 4] = 5.0
        return self.critic(self.actor(batch)).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(folder: Path, *callbacks: Any, model: Any = None, checkpoint: Any = None, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(each, ModelCheckpoint) for each in callbacks),
        "default_root_dir": folder,
    }
    trainer = pl.Trainer(callbacks=list(callbacks), **(defaults | options))
    data = torch.utils.data.DataLoader(torch.randn(96, 60, generator=torch.Generator().manual_seed(0)), batch_size=8)
    trainer.fit(model or Network(), data, ckpt_path=checkpoint)
    return trainer


def watching(**options: Any) -> SpectralMonitor:
    return SpectralMonitor(**{"every_n_steps": 4, "executor": "sync", "figures": False} | options)


def pair() -> tuple[SpectralMonitor, SpectralMonitor]:
    return watching(layers=["actor"], prefix="actor"), watching(layers=["critic.*"], prefix="critic")


def stopping_of(monitor: SpectralMonitor, **options: Any) -> SpectralEarlyStopping:
    return SpectralEarlyStopping(rules=["traps"], patience=2, source=monitor, **options)


def test_two_monitors_have_their_own_metrics_followers_and_states(tmp_path: Path) -> None:
    actor, critic = pair()
    stock = EarlyStopping(monitor="critic/alpha", mode="min", check_on_train_epoch_end=True)
    best = ModelCheckpoint(tmp_path, "best", monitor="actor/alpha", mode="min", save_last=True)
    followers = [stopping_of(actor, mode="warn"), stopping_of(critic)]
    with pytest.warns(RuntimeWarning, match="training could end: traps"):
        trainer = fit(tmp_path, actor, critic, *followers, stock, best, logger=CSVLogger(tmp_path))
    assert actor.history.steps == critic.history.steps == [0, 4, 8, 12]
    for monitor in (actor, critic):
        alpha = float(trainer.callback_metrics[f"{monitor.prefix}/alpha"])
        assert alpha == pytest.approx(monitor.history[-1].summary()["alpha"])
    assert not [key for key in trainer.callback_metrics if key.startswith("ww")]
    header = (Path(trainer.logger.log_dir) / "metrics.csv").read_text().partition("\n")[0].split(",")
    assert {"actor_layer/alpha/000.actor", "critic_layer/alpha/001.critic.0", "critic/stop/traps"} <= {*header}
    assert [each.stopped_reason.partition(" ")[0] for each in followers] == ["traps", ""]
    assert float(best.best_model_score) in map(pytest.approx, actor.history.series("alpha"))
    assert stock.stopped_epoch == 0
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert [saved[each.state_key]["stopped_step"] for each in followers] == [8, None]

    again = pair()
    fit(tmp_path, *again, stopping_of(again[1]), max_epochs=2, checkpoint=tmp_path / "last.ckpt")
    assert [each.history.steps for each in again] == [[0, 4, 8, 12, 16, 20, 24]] * 2


def test_state_keys_differ_where_the_configuration_does() -> None:
    monitors = [
        watching(),
        watching(every_n_steps=5),
        watching(layers=["actor"]),
        watching(prefix="actor"),
        SpectralMonitor(every_n_epochs=4),
    ]
    kinds = (SpectralEarlyStopping, LayerwiseLearningRate)
    followers = [make(source=each) for each in (None, *monitors) for make in kinds]
    decay = LayerwiseLearningRate(quantity="weight_decay")
    keys = [each.state_key for each in (*monitors, *followers, decay)]
    assert len(set(keys)) == len(keys)
    assert watching().state_key == watching(budget=0.5).state_key  # which may change when a run resumes


def test_two_monitors_with_the_same_names_are_warned_of_once(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="prefix: 2 monitors write metrics named ww/") as warned:
        fit(tmp_path, watching(layers=["actor"]), watching(layers=["critic.*"]), max_steps=1)
    assert sum("prefix" in str(each.message) for each in warned) == 1


@pytest.mark.parametrize("verbose", [True, False])
def test_messages_are_in_the_logger_of_lightning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, verbose: bool
) -> None:
    monitor = watching()
    rates = LayerwiseLearningRate(apply=True, layers=["actor", "critic.0"], verbose=verbose)
    stopping = stopping_of(monitor, verbose=verbose)
    with caplog.at_level(logging.INFO):
        fit(tmp_path, monitor, stopping, rates)
    said = [record.getMessage() for record in caplog.records if record.name == "pytorch_lightning.ww_callbacks"]
    assert [message.partition(" ")[0] for message in said] == ["learning-rate", "SpectralEarlyStopping"] * verbose
    assert stopping.stopped_reason.startswith("traps at step")


class NoColours(RichProgressBar):
    """Draws at every batch, on whatever standard output is."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1, console_kwargs={"force_terminal": True, "width": 100})


@pytest.mark.parametrize("bar", [TQDMProgressBar, NoColours])
def test_messages_do_not_break_the_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bar: Any) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    logger, handler = logging.getLogger("pytorch_lightning"), logging.StreamHandler(terminal)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    monitor = watching()
    fit(tmp_path, monitor, stopping_of(monitor), bar(), enable_progress_bar=True)
    shown = terminal.getvalue()
    before, found, after = shown.partition("SpectralEarlyStopping ends the training.")
    assert found
    assert "Epoch 0" in before
    assert "Epoch 0" in after  # the bar is drawn again below
    assert before.endswith(("\r", "\x1b[2K", "\n"))  # it was erased, so the message stands alone in its line


def test_a_plateau_scheduler_follows_a_named_metric(tmp_path: Path) -> None:
    class Scheduled(Network):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "actor/alpha"}}

    monitor = watching(prefix="actor", executor="thread")
    trainer = fit(tmp_path, monitor, model=Scheduled())
    known = {float(summary["alpha"]) for summary in (report.summary() for report in monitor.history)}
    assert trainer.lr_scheduler_configs[0].scheduler.best in map(pytest.approx, known)
