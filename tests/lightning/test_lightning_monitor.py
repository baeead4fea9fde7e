"""The Lightning callback in real trainings, under both distributions of Lightning."""

from __future__ import annotations

import copy
import csv
import importlib
import io
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from processes import workers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ww_callbacks as ww
from ww_callbacks.lightning import SpectralEarlyStopping, SpectralMonitor
from ww_callbacks.lightning.distributed import unsupported
from ww_callbacks.page.runs import Runs

pytestmark = pytest.mark.timeout(120)

BATCHES = 12


both_distributions = pytest.mark.parametrize("pl", ["pytorch_lightning", "lightning.pytorch"], indirect=True)
second_distribution_is_slow = pytest.mark.parametrize(
    "pl", ["pytorch_lightning", pytest.param("lightning.pytorch", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def pl(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(getattr(request, "param", "pytorch_lightning"))


@pytest.fixture(autouse=True)
def nothing_survives() -> Any:
    yield
    assert not workers()


def network(pl: Any, *, optimizers: int = 1, manual: bool = False, scheduler: dict[str, Any] | None = None) -> Any:
    class Network(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(80, 60), nn.ReLU(), nn.Linear(60, 55), nn.ReLU(), nn.Linear(55, 4))
            self.automatic_optimization = not manual
            self.seen: list[tuple[int, dict[str, float]]] = []

        def training_step(self, batch: Any, _index: int) -> torch.Tensor:
            self.seen.append((self.global_step, ww_metrics(self.trainer)))
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            if manual:
                self.manual_backward(loss)
                for optimizer in self.optimizers() if optimizers > 1 else [self.optimizers()]:
                    optimizer.step()
                    optimizer.zero_grad()
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, _index: int) -> None:
            self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            made = [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(optimizers)]
            if scheduler is None:
                return made
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(made[0])
            return {"optimizer": made[0], "lr_scheduler": {"scheduler": plateau} | scheduler}

    torch.manual_seed(0)
    return Network()


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCHES * 8, 80, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(0, 4, (BATCHES * 8,), generator=generator)), 8)


def trainer_of(pl: Any, tmp_path: Path, *callbacks: Any, **arguments: Any) -> Any:
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any("Checkpoint" in type(each).__name__ for each in callbacks),
        "default_root_dir": tmp_path,
        "num_sanity_val_steps": 2,
    }
    return pl.Trainer(callbacks=list(callbacks), **(defaults | arguments))


def watching(**options: Any) -> SpectralMonitor:
    """Analyse in a thread and draw nothing, unless a test is about the worker process or the figures."""
    return SpectralMonitor(**{"executor": "thread", "figures": False} | options)


def ww_metrics(trainer: Any) -> dict[str, float]:
    return {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("ww/")}


@pytest.mark.parametrize(
    ("every", "arguments", "model", "expected"),
    [
        (10, {}, {}, [0, 10, 20, 24]),
        (12, {}, {}, [0, 12, 24]),
        (5, {"accumulate_grad_batches": 3}, {}, [0, 5, 8]),
        (1, {"accumulate_grad_batches": 6}, {}, [0, 1, 2, 3, 4]),
        (5, {"max_epochs": 1}, {"manual": True}, [0, 5, 10, 12]),
        (5, {"max_epochs": 1}, {"manual": True, "optimizers": 2}, [0, 6, 10, 16, 20, 24]),
        (1000, {}, {}, [0, 24]),
        (4, {"max_steps": 9}, {}, [0, 4, 8, 9]),
    ],
)
def test_snapshots_are_taken_where_a_multiple_of_the_steps_is_reached_or_passed(
    pl: Any, tmp_path: Path, every: int, arguments: dict[str, Any], model: dict[str, Any], expected: list[int]
) -> None:
    monitor = watching(every_n_steps=every, deterministic=True)
    trainer_of(pl, tmp_path, monitor, **arguments).fit(network(pl, **model), data())
    assert monitor.history.steps == expected


@pytest.mark.parametrize(("every", "epochs", "expected"), [(1, 2, [0, 12, 24]), (2, 5, [0, 24, 48, 60])])
def test_snapshots_by_epochs(pl: Any, tmp_path: Path, every: int, epochs: int, expected: list[int]) -> None:
    monitor = watching(every_n_epochs=every, deterministic=True)
    trainer_of(pl, tmp_path, monitor, max_epochs=epochs).fit(network(pl), data(), data())
    assert monitor.history.steps == expected


@both_distributions
def test_the_last_report_is_that_of_the_trained_weights(pl: Any, tmp_path: Path) -> None:
    monitor = SpectralMonitor(every_n_steps=10, deterministic=True)
    model = network(pl)
    trainer_of(pl, tmp_path, monitor).fit(model, data())
    expected = ww.analyze(model)
    for seen, wanted in zip(monitor.history[-1], expected, strict=True):
        assert seen.name == wanted.name
        assert seen.status == wanted.status
        assert seen.lambda_max == pytest.approx(wanted.lambda_max, rel=1e-9)
        assert (seen.alpha is None) == (wanted.alpha is None)
        assert seen.alpha is None or seen.alpha == pytest.approx(wanted.alpha, rel=1e-6)


@both_distributions
def test_tensorboard_gets_one_event_per_snapshot_in_the_run_of_the_logger(pl: Any, tmp_path: Path) -> None:
    loggers = importlib.import_module(f"{pl.__name__}.loggers")
    monitor = SpectralMonitor(every_n_steps=5, deterministic=True, figures=False)
    trainer = trainer_of(pl, tmp_path, monitor, logger=loggers.TensorBoardLogger(tmp_path), log_every_n_steps=1)
    trainer.fit(network(pl), data(), data())

    files = list(Path(trainer.log_dir).glob("events*"))
    assert len(files) == 1
    events = [
        event.step
        for event in EventFileLoader(str(files[0])).Load()
        if event.HasField("summary") and any(value.tag == "ww/alpha" for value in event.summary.value)
    ]
    assert events == monitor.history.steps == [0, 5, 10, 15, 20, 24]

    reader = EventAccumulator(trainer.log_dir, size_guidance={"scalars": 0}).Reload()
    for tag in (tag for tag in reader.Tags()["scalars"] if tag.startswith("ww")):
        steps = [event.step for event in reader.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
    assert "train_loss" in reader.Tags()["scalars"]
    assert [event.value for event in reader.Scalars("ww/alpha")] == pytest.approx(monitor.history.series("alpha"))
    assert [event.value for event in reader.Scalars("ww_layer/alpha/001.net.2")] == pytest.approx(
        monitor.history.series("alpha", "net.2")
    )


def test_a_live_reader_sees_each_point_while_training_goes_on(pl: Any, tmp_path: Path) -> None:
    loggers = importlib.import_module(f"{pl.__name__}.loggers")
    seen: list[list[int]] = []

    class Reader(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            reader = EventAccumulator(trainer.log_dir, size_guidance={"scalars": 0}).Reload()
            known = "ww/alpha" in reader.Tags()["scalars"]
            seen.append([event.step for event in reader.Scalars("ww/alpha")] if known else [])

    monitor = watching(every_n_steps=3, deterministic=True)
    trainer = trainer_of(pl, tmp_path, Reader(), monitor, max_epochs=1, logger=loggers.TensorBoardLogger(tmp_path))
    trainer.fit(network(pl), data())
    assert seen[-1] == [0, 3, 6]  # read before our own hook of the last batch
    assert [] in seen


@both_distributions
def test_any_other_logger_gets_all_metrics_in_one_row_per_snapshot(pl: Any, tmp_path: Path) -> None:
    loggers = importlib.import_module(f"{pl.__name__}.loggers")
    monitor = watching(every_n_steps=10, deterministic=True)
    logger = loggers.CSVLogger(tmp_path)
    trainer_of(pl, tmp_path, monitor, logger=logger).fit(network(pl), data())
    rows = list(csv.DictReader(io.StringIO((Path(logger.log_dir) / "metrics.csv").read_text())))
    ours = [row for row in rows if row["ww/alpha"]]
    assert [int(row["step"]) for row in ours] == monitor.history.steps
    assert [float(row["ww/alpha"]) for row in ours] == pytest.approx(monitor.history.series("alpha"))


def test_a_spooled_training_writes_snapshots_and_logs_nothing(pl: Any, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    monitor = SpectralMonitor(every_n_steps=10, spool=spool, deterministic=True)
    logger = importlib.import_module(f"{pl.__name__}.loggers").CSVLogger(tmp_path)
    with pytest.raises(ValueError, match="spool: signal 'stop' needs results"):
        trainer_of(pl, tmp_path, monitor, SpectralEarlyStopping()).fit(network(pl), data())
    trainer_of(pl, tmp_path, monitor, logger=logger, log_every_n_steps=1).fit(model := network(pl), data())
    files = sorted(spool.iterdir())
    assert [file.name for file in files] == [f"step-{step:09d}.safetensors" for step in (0, 10, 20, 24)]
    assert "ww/" not in (Path(logger.log_dir) / "metrics.csv").read_text()
    options = {"randomize": False}
    assert ww.analyze(files[-1], **options).to_dicts() == ww.analyze(model, **options).to_dicts()


def test_log_dir_is_used_where_no_logger_writes_for_tensorboard(pl: Any, tmp_path: Path) -> None:
    monitor = watching(every_n_steps=10, deterministic=True, log_dir=str(tmp_path / "own"), jsonl=True)
    trainer_of(pl, tmp_path, monitor).fit(network(pl), data())
    reader = EventAccumulator(str(tmp_path / "own" / "ww")).Reload()
    assert [event.step for event in reader.Scalars("ww/alpha")] == monitor.history.steps
    assert list(ww.read_jsonl(tmp_path / "ww_history.jsonl")) == list(monitor.history)


def test_callback_metrics_are_the_means_and_change_at_snapshot_steps_only(pl: Any, tmp_path: Path) -> None:
    monitor = watching(every_n_steps=5, deterministic=True)
    model = network(pl)
    trainer = trainer_of(pl, tmp_path, monitor)
    trainer.fit(model, data())
    changes = [step for (_, before), (step, after) in zip(model.seen, model.seen[1:], strict=False) if before != after]
    assert set(changes) <= {5, 10, 15, 20}
    last = monitor.history[-1].summary()
    assert ww_metrics(trainer)["ww/alpha"] == pytest.approx(last["alpha"])
    assert {f"ww/{key}" for key in last} < set(ww_metrics(trainer))


@both_distributions
@pytest.mark.parametrize("asked", [True, False])
def test_the_progress_bar_carries_alpha_on_request(pl: Any, tmp_path: Path, asked: bool) -> None:
    shown: list[Any] = []

    class Bar(importlib.import_module(f"{pl.__name__}.callbacks").ProgressBar):  # type: ignore[misc]
        def enable(self) -> None: ...

        def disable(self) -> None: ...

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            shown.append(self.get_metrics(trainer, module).get("ww/alpha"))

    monitor = watching(every_n_steps=5, deterministic=True, prog_bar=asked)
    trainer_of(pl, tmp_path, monitor, Bar(), enable_progress_bar=True).fit(network(pl), data())
    alphas = monitor.history.series("alpha")
    expected = [None] * 4 + [alphas[0]] * 5 + [alphas[1]] * 5 + [alphas[2]] * 5 + [alphas[3]] * 5
    assert shown == (pytest.approx(expected) if asked else [None] * 24)


def test_what_is_known_at_a_step_is_reproducible_when_waiting(pl: Any, tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        model = network(pl)
        trainer_of(pl, tmp_path, watching(every_n_steps=4, deterministic=True)).fit(model, data())
        runs.append(model.seen)
    assert runs[0] == runs[1]
    assert any(metrics for _, metrics in runs[0])


@both_distributions
@pytest.mark.parametrize("first", [True, False])
def test_stock_early_stopping_and_checkpoint_monitor_alpha_from_their_first_check(
    pl: Any, tmp_path: Path, first: bool
) -> None:
    callbacks = importlib.import_module(f"{pl.__name__}.callbacks")
    stopping = callbacks.EarlyStopping(monitor="ww/alpha", mode="min", patience=1, min_delta=100.0)
    checkpoint = callbacks.ModelCheckpoint(tmp_path, monitor="ww/alpha", save_top_k=1)
    monitor = watching(every_n_steps=1000)
    order = [monitor, stopping, checkpoint] if first else [stopping, checkpoint, monitor]
    trainer = trainer_of(pl, tmp_path, *order, max_epochs=9)
    trainer.fit(network(pl), data(), data())
    assert trainer.current_epoch < 9
    assert float(stopping.best_score) == pytest.approx(monitor.history[0].summary()["alpha"])
    assert float(checkpoint.best_model_score) == pytest.approx(monitor.history[0].summary()["alpha"])


def test_checkpoints_between_validations_find_the_metric_too(pl: Any, tmp_path: Path) -> None:
    callbacks = importlib.import_module(f"{pl.__name__}.callbacks")
    checkpoint = callbacks.ModelCheckpoint(tmp_path, monitor="ww/alpha", every_n_train_steps=1, save_top_k=-1)
    trainer_of(pl, tmp_path, watching(every_n_steps=5), checkpoint, max_epochs=1).fit(network(pl), data())
    assert len(list(tmp_path.glob("*.ckpt"))) == BATCHES


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_plateau_schedulers_find_the_metric_too(pl: Any, tmp_path: Path, interval: str) -> None:
    model = network(pl, scheduler={"monitor": "ww/alpha", "interval": interval})
    trainer_of(pl, tmp_path, watching(every_n_steps=5)).fit(model, data())
    assert model.trainer.lr_scheduler_configs[0].scheduler.last_epoch > 0


@both_distributions
def test_a_second_fit_goes_on_where_the_first_ended(pl: Any, tmp_path: Path) -> None:
    loggers = importlib.import_module(f"{pl.__name__}.loggers")
    monitor = watching(every_n_steps=10, deterministic=True)
    trainer = trainer_of(pl, tmp_path, monitor, max_epochs=1, logger=loggers.TensorBoardLogger(tmp_path))
    model = network(pl)
    trainer.fit(model, data())
    assert monitor.history.steps == [0, 10, 12]
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, data())
    assert monitor.history.steps == [0, 10, 12, 20, 24]
    reader = EventAccumulator(trainer.log_dir).Reload()
    assert [event.step for event in reader.Scalars("ww/alpha")] == [0, 10, 12, 20, 24]


def fit_with_checkpoint(pl: Any, tmp_path: Path, monitor: SpectralMonitor, batches: int, **options: Any) -> Any:
    """A training of 12 batches an epoch that ends after some of them and leaves ``last.ckpt``."""
    loggers = importlib.import_module(f"{pl.__name__}.loggers")
    logger = loggers.TensorBoardLogger(tmp_path, version=0)
    trainer = trainer_of(pl, tmp_path, monitor, max_epochs=-1, max_steps=batches, logger=logger)
    trainer.fit(network(pl), data(), data(), **options)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return trainer


@second_distribution_is_slow
@pytest.mark.parametrize("every", [{"every_n_steps": 5}, {"every_n_epochs": 1}])
def test_a_resumed_training_has_the_steps_of_an_uninterrupted_one(
    pl: Any, tmp_path: Path, every: dict[str, int]
) -> None:
    whole = watching(deterministic=True, **every)
    fit_with_checkpoint(pl, tmp_path / "whole", whole, 36)

    folder, ours = tmp_path / "parts", {"deterministic": True, "jsonl": str(tmp_path / "history.jsonl")} | every
    fit_with_checkpoint(pl, folder, watching(**ours), 24)
    saved = torch.load(folder / "last.ckpt", weights_only=True)["callbacks"][whole.state_key]
    assert (saved["step"], saved["last_snapshot"]) == (24, 24)
    resumed = watching(**ours)
    trainer = fit_with_checkpoint(pl, folder, resumed, 36, ckpt_path=folder / "last.ckpt")

    expected = sorted({*whole.history.steps, 24})  # its end was not planned
    assert resumed.history.steps == expected
    assert list(ww.read_jsonl(tmp_path / "history.jsonl")) == list(resumed.history)
    reader = EventAccumulator(trainer.log_dir, size_guidance={"scalars": 0}).Reload()
    for tag in ("ww/alpha", "ww_layer/alpha/001.net.2"):
        assert [event.step for event in reader.Scalars(tag)] == expected
    for report in whole.history:
        assert resumed.history[expected.index(report.step)].summary() == pytest.approx(report.summary())


DAMAGED = ({"step": "24"}, [1], {"step": 12, "history": {"reports": "[["}})


@pytest.mark.parametrize("state", DAMAGED, ids=["a text", "a list", "cut"])
def test_a_training_resumes_from_a_checkpoint_with_a_damaged_state(pl: Any, tmp_path: Path, state: Any) -> None:
    key = watching(every_n_steps=5).state_key
    fit_with_checkpoint(pl, tmp_path, watching(every_n_steps=5), 12)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint["callbacks"][key] = state
    torch.save(checkpoint, tmp_path / "last.ckpt")
    resumed = watching(every_n_steps=5, deterministic=True)
    trainer = trainer_of(pl, tmp_path, resumed, max_epochs=-1, max_steps=16)
    with pytest.warns(RuntimeWarning, match="it is left out, a new history begins") as caught:
        trainer.fit(network(pl), data(), ckpt_path=tmp_path / "last.ckpt")
    assert sum("a new history begins" in str(each.message) for each in caught) == 1
    assert trainer.global_step == 16
    assert resumed.history.steps == [12, 15, 16]


def test_a_resumed_training_begins_with_what_was_known(pl: Any, tmp_path: Path) -> None:
    monitor = watching(every_n_steps=5, deterministic=True)
    known = ww_metrics(fit_with_checkpoint(pl, tmp_path, monitor, 12))
    model = network(pl)
    trainer_of(pl, tmp_path, watching(every_n_steps=5, deterministic=True), max_epochs=-1, max_steps=13).fit(
        model, data(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert model.seen[0] == (12, known)


def test_results_that_were_under_way_at_the_checkpoint_are_made_up_for(pl: Any, tmp_path: Path) -> None:
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 10:
                trainer.save_checkpoint(tmp_path / "early.ckpt")

    monitor = watching(every_n_steps=5, deterministic=True, jsonl=True)
    trainer_of(pl, tmp_path, monitor, Save(), max_epochs=1).fit(network(pl), data())
    assert monitor.history.steps == [0, 5, 10, 12]
    resumed = watching(every_n_steps=5, deterministic=True, jsonl=True)
    model = network(pl)
    trainer_of(pl, tmp_path, resumed, max_epochs=1).fit(model, data(), ckpt_path=tmp_path / "early.ckpt")
    assert resumed.history.steps == [0, 5, 10, 12]
    for seen, wanted in list(zip(resumed.history, monitor.history, strict=True))[:3]:  # the last batches are others
        assert seen.summary() == pytest.approx(wanted.summary())
    assert list(ww.read_jsonl(tmp_path / "ww_history.jsonl")) == list(resumed.history)


def test_a_checkpoint_loaded_for_a_validation_does_not_enter_a_training_from_the_start(pl: Any, tmp_path: Path) -> None:
    fit_with_checkpoint(pl, tmp_path, watching(every_n_steps=5, deterministic=True), 12)
    monitor = watching(every_n_steps=10, deterministic=True)
    trainer = trainer_of(pl, tmp_path, monitor, max_epochs=1)
    trainer.validate(network(pl), data(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    trainer.fit(network(pl), data())
    assert monitor.history.steps == [0, 10, 12]


def test_validate_test_and_predict_start_nothing(pl: Any, tmp_path: Path) -> None:
    monitor = SpectralMonitor(every_n_steps=1)
    trainer_of(pl, tmp_path, monitor).validate(network(pl), data(), verbose=False)
    assert monitor.monitor is None
    assert len(monitor.history) == 0


def test_fast_dev_run_is_left_alone(pl: Any, tmp_path: Path) -> None:
    monitor = SpectralMonitor(every_n_steps=1)
    trainer_of(pl, tmp_path, monitor, fast_dev_run=True).fit(network(pl), data())
    assert monitor.monitor is None


def test_weights_that_become_nan_do_not_disturb_training(pl: Any, tmp_path: Path) -> None:
    class Breaker(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            if trainer.global_step == 10:
                module.net[2].weight.data.fill_(float("nan"))

    monitor = watching(every_n_steps=8, deterministic=True)
    trainer = trainer_of(pl, tmp_path, Breaker(), monitor, max_epochs=1)
    trainer.fit(network(pl), data())
    assert trainer.global_step == BATCHES
    last = monitor.history[-1]
    assert last["net.2"].status == "failed"
    assert last["net.2"].reason == "non-finite weights"
    assert ww_metrics(trainer)["ww/failed"] >= 1
    assert math.isnan(ww_metrics(trainer)["ww/alpha"])


def breaker(pl: Any, step: int, value: float) -> Any:
    """A callback that sets all weights to a value after a step."""

    class Breaker(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            if trainer.global_step == step:
                for parameter in module.parameters():
                    parameter.data.fill_(value)

    return Breaker()


@both_distributions
def test_stock_early_stopping_sees_that_weights_became_nan(pl: Any, tmp_path: Path) -> None:
    """NaN from step 7 on is in the snapshot of step 10, whose result is known at step 15."""
    package = importlib.import_module(f"{pl.__name__}.callbacks")
    loggers = importlib.import_module(f"{pl.__name__}.loggers")
    stopping = package.EarlyStopping("ww/alpha", mode="min", patience=50, check_finite=True)
    monitor = watching(every_n_steps=5, deterministic=True, jsonl=True)
    logger = loggers.TensorBoardLogger(tmp_path)
    breaking = breaker(pl, 7, float("nan"))
    trainer = trainer_of(pl, tmp_path, breaking, monitor, stopping, max_epochs=6, logger=logger)
    trainer.fit(network(pl), data())
    assert trainer.global_step == 24

    seen = ww_metrics(trainer)
    assert seen.keys() == {f"ww/{key}" for key in monitor.history[0].summary()} | {
        *(key for key in seen if key.startswith("ww/stop/")),
        *("ww/lag_steps", "ww/skipped", "ww/over_budget"),
    }
    assert all(math.isnan(seen[key]) for key in ("ww/alpha", "ww/alpha_max", "ww/log_norm", "ww/D"))
    assert seen["ww/failed"] == 3

    reader = EventAccumulator(trainer.log_dir, size_guidance={"scalars": 0}).Reload()
    for tag in ("ww/alpha", "ww_layer/alpha/001.net.2", "ww_layer/log_norm/002.net.4"):
        shown = [(event.step, math.isnan(event.value)) for event in reader.Scalars(tag)]
        assert shown == [(0, False), (5, False), (10, True), (15, True), (20, True), (24, True)], tag
    lines = (Path(trainer.log_dir) / "ww_history.jsonl").read_text().splitlines()
    values = [json.loads(line, parse_constant=pytest.fail) for line in lines]  # NaN is no JSON
    assert [value["step"] for value in values if "step" in value] == monitor.history.steps
    (finding,) = [each for each in monitor.history.findings if each.kind == "non_finite"]
    assert finding.text == "net.0, net.2 and net.4 hold NaN or infinite weights since step 10."


def test_a_resumed_training_turns_metrics_nan_too(pl: Any, tmp_path: Path) -> None:
    loggers = importlib.import_module(f"{pl.__name__}.loggers")
    fit_with_checkpoint(pl, tmp_path, watching(every_n_steps=5, deterministic=True), 12)
    logger = loggers.TensorBoardLogger(tmp_path, version=1)
    monitor = watching(every_n_steps=5, deterministic=True)
    breaking = breaker(pl, 12, float("nan"))
    trainer = trainer_of(pl, tmp_path, breaking, monitor, max_epochs=-1, max_steps=16, logger=logger)
    trainer.fit(network(pl), data(), ckpt_path=tmp_path / "last.ckpt")
    assert math.isnan(ww_metrics(trainer)["ww/alpha"])
    reader = EventAccumulator(trainer.log_dir).Reload()
    shown = [(event.step, math.isnan(event.value)) for event in reader.Scalars("ww_layer/alpha/001.net.2")]
    assert shown == [(15, True), (16, True)]


def test_a_mean_that_no_layer_has_any_more_disappears(pl: Any, tmp_path: Path) -> None:
    class Bar(importlib.import_module(f"{pl.__name__}.callbacks").ProgressBar):  # type: ignore[misc]
        def enable(self) -> None: ...

        def disable(self) -> None: ...

    monitor = watching(every_n_steps=5, deterministic=True, prog_bar=True)
    trainer = trainer_of(pl, tmp_path, breaker(pl, 7, 0.0), monitor, Bar(), max_epochs=1, enable_progress_bar=True)
    trainer.fit(network(pl), data())
    assert monitor.history[-1]["net.0"].skip_reason == "zero"
    assert monitor.history[0].summary()["alpha"] > 0
    assert "ww/alpha" not in trainer.callback_metrics
    assert "ww/alpha" not in trainer.progress_bar_metrics
    assert ww_metrics(trainer)["ww/failed"] == 0


def gan(pl: Any, *, wrapped: bool = True) -> Any:
    """Two networks with an optimizer each, which both step at each batch."""

    class Gan(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.discriminator = nn.Linear(80, 80), nn.Linear(80, 60)

        def training_step(self, batch: Any, _index: int) -> None:
            first, second = self.optimizers(use_pl_optimizer=wrapped)
            for optimizer, sign in ((first, -1.0), (second, 1.0)):
                loss = sign * self.discriminator(self.generator(batch[0])).square().mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            self.log("d_loss", loss)

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (self.generator, self.discriminator)]

    torch.manual_seed(0)
    return Gan()


def test_tensorboard_has_all_results_of_a_training_that_failed(pl: Any, tmp_path: Path) -> None:
    class Failing(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 8:
                raise ZeroDivisionError

    logger = importlib.import_module(f"{pl.__name__}.loggers").TensorBoardLogger(tmp_path)
    monitor = watching(every_n_steps=3, deterministic=True)
    with pytest.raises(ZeroDivisionError):
        trainer_of(pl, tmp_path, monitor, Failing(), logger=logger).fit(network(pl), data())
    reader = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in reader.Scalars("ww/alpha")] == monitor.history.steps
    assert monitor.history.steps[:2] == [0, 3]


@second_distribution_is_slow
def test_a_gan_counts_the_steps_of_both_optimizers_and_is_logged_by_batches(pl: Any, tmp_path: Path) -> None:
    """So its curves lie at the batches of those that Lightning logs."""
    loggers = importlib.import_module(f"{pl.__name__}.loggers")
    tensorboard, rows = loggers.TensorBoardLogger(tmp_path), loggers.CSVLogger(tmp_path)
    monitor = watching(every_n_steps=10, deterministic=True, figures=True)
    trainer = trainer_of(pl, tmp_path, monitor, logger=[tensorboard, rows], log_every_n_steps=1, max_epochs=2)
    model = gan(pl)
    trainer.fit(model, data())
    assert trainer.global_step == 48
    assert monitor.history.steps == [0, 10, 20, 30, 40, 48]
    reader = EventAccumulator(tensorboard.log_dir, size_guidance={"scalars": 0, "images": 0}).Reload()
    assert [event.step for event in reader.Scalars("d_loss")] == [*range(24)]
    assert [event.step for event in reader.Scalars("ww/alpha")] == [0, 5, 10, 15, 20, 24]
    pictures = {event.step for tag in reader.Tags()["images"] for event in reader.Images(tag)}
    assert max(pictures) == 24
    ((_, files, _),) = Runs(Path(tensorboard.log_dir)).listed()
    page = files.run.answer()
    assert page["steps"] == [0, 5, 10, 15, 20, 24]
    curves = {curve["name"]: curve["steps"] for curve in page["curves"]}
    assert curves["learning_rate"] == [0, 5, 10, 15, 20, 24]
    expected = [[layer.alpha for layer in report] for report in monitor.history]
    np.testing.assert_allclose(files.run.column("alpha"), np.array(expected, float), rtol=1e-6)
    written = csv.DictReader(io.StringIO((Path(rows.log_dir) / "metrics.csv").read_text()))
    assert [int(row["step"]) for row in written if row["ww/alpha"]] == [0, 5, 10, 15, 20, 24]
    assert monitor.history[-1]["generator"].lambda_max == pytest.approx(ww.analyze(model)["generator"].lambda_max)


def test_steps_are_batches_where_the_trainer_counts_none(
    pl: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Optimizers without the wrapper of Lightning leave ``global_step`` at 0."""
    monitor = watching(every_n_steps=5, deterministic=True)
    stopping = SpectralEarlyStopping(mode="warn")
    trainer = trainer_of(pl, tmp_path, stopping, monitor, max_epochs=2)
    with caplog.at_level("WARNING"):
        trainer.fit(gan(pl, wrapped=False), data())
    assert trainer.global_step == 0
    assert monitor.history.steps == [0, 5, 10, 15, 20, 24]
    assert len(set(monitor.history.series("norm", "generator"))) == 6
    assert caplog.text.count("finished batches are counted as steps") == 1
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    resumed = watching(every_n_steps=5, deterministic=True)
    stopping = SpectralEarlyStopping(mode="warn")
    begins: list[int | None] = []

    class Probe(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            begins.append(stopping._started_at)

    again = trainer_of(pl, tmp_path, stopping, Probe(), resumed, max_epochs=3)
    again.fit(gan(pl, wrapped=False), data(), ckpt_path=tmp_path / "last.ckpt")
    assert resumed.history.steps == [0, 5, 10, 15, 20, 24, 25, 30, 35, 36]
    assert begins == [24]  # with 0, a verdict of the first training would count as one of the second


def test_epochs_are_snapshots_where_the_trainer_counts_no_steps(pl: Any, tmp_path: Path) -> None:
    monitor = watching(every_n_epochs=1, deterministic=True)
    trainer_of(pl, tmp_path, monitor, max_epochs=2).fit(gan(pl, wrapped=False), data())
    assert monitor.history.steps == [0, 12, 24]


def test_a_model_without_an_analysable_layer_trains_with_one_warning(pl: Any, tmp_path: Path) -> None:
    class Bare(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(80))

        def training_step(self, batch: Any, _index: int) -> torch.Tensor:
            return (batch[0] * self.scale).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = trainer_of(pl, tmp_path, watching(every_n_steps=2))
    with pytest.warns(RuntimeWarning, match="nothing to analyse") as record:
        trainer.fit(Bare(), data())
    assert len([w for w in record if "nothing to analyse" in str(w.message)]) == 1
    assert trainer.global_step == 2 * BATCHES


def test_a_misspelt_pattern_ends_before_the_first_step(pl: Any, tmp_path: Path) -> None:
    trainer = trainer_of(pl, tmp_path, watching(layers=["nett.*"]))
    with pytest.raises(ValueError, match=r"layers: 'nett\.\*' matches no layer; the layers are \['net\.0'"):
        trainer.fit(network(pl), data())
    assert trainer.global_step == 0


def test_strategies_whose_weights_cannot_be_put_together_are_named() -> None:
    strategies = importlib.import_module("pytorch_lightning.strategies")
    assert "use ModelParallelStrategy (FSDP2)" in unsupported(strategies.FSDPStrategy())
    assert unsupported(strategies.ModelParallelStrategy()) == unsupported(strategies.DDPStrategy()) == ""

    class StageThree(strategies.DDPStrategy):  # type: ignore[misc]
        zero_stage_3 = True  # as DeepSpeedStrategy says it, which needs deepspeed

    assert "DeepSpeed's ZeRO stage 3" in unsupported(StageThree())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"every_n_steps": 0}, ValueError, "every_n_steps: expected at least 1, got 0"),
        ({"every_n_steps": 2.5}, TypeError, "every_n_steps: expected a whole number, got 2.5"),
        ({"every_n_epochs": -1}, ValueError, "every_n_epochs: expected at least 1, got -1"),
        ({"every_n_steps": 5, "every_n_epochs": 1}, ValueError, "every_n_steps, every_n_epochs: give one of them"),
        ({"layers": "net.*"}, TypeError, "layers: expected a list of patterns"),
        ({"deterministic": "wait"}, TypeError, "deterministic: expected True, False or None, got 'wait'"),
        ({"workers": 0}, ValueError, "workers: expected at least 1"),
        ({"timeout": -1.0}, ValueError, "timeout: expected more than 0 seconds"),
        ({"conv_scale": "x"}, ValueError, "conv_scale: expected"),
        ({"log_dir": 5}, TypeError, "log_dir: expected a path"),
        ({"prog_bar": "yes"}, TypeError, "prog_bar: expected True or False, got 'yes'"),
        ({"on_error": "ignore"}, ValueError, "on_error: expected one of"),
    ],
)
def test_arguments_are_checked_at_once(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SpectralMonitor(**arguments)


def test_it_can_be_copied_and_pickled_before_training(pl: Any, tmp_path: Path) -> None:
    monitor = SpectralMonitor(every_n_steps=7, layers=["net.*"])
    for made in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
        trainer_of(pl, tmp_path, made, max_epochs=1).fit(network(pl), data())
        assert 0 in made.history.steps


def test_the_worker_is_started_with_the_first_snapshot_and_gone_at_the_end(pl: Any, tmp_path: Path) -> None:
    pids: list[int] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            pids.extend(workers())

    before = set(os.listdir("/proc/self/fd"))
    trainer_of(pl, tmp_path, SpectralMonitor(every_n_steps=2, deterministic=True), Look()).fit(network(pl), data())
    assert len(set(pids)) == 1
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1
