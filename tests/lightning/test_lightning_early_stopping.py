"""Trainings with Lightning that the spectra end."""

from __future__ import annotations

import importlib
import json
import logging

import lightning.pytorch  # noqa: F401 - both are loaded before the callbacks take their base from them
import pytest
import pytorch_lightning  # noqa: F401
import torch
from delayed import Delayed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ww_callbacks.lightning import LayerwiseLearningRate, SpectralEarlyStopping, SpectralMonitor

pytestmark = pytest.mark.timeout(120)


def network(pl, **options):
    """A network whose first layer gets one very large weight, which is a trap, at step 20."""

    class Network(pl.LightningModule):
        def __init__(self, validation=None):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 4))
            self.validation, self.seen = validation, 0

        def training_step(self, batch, index):
            if self.global_step == 20:
                with torch.no_grad():
                    self.net[0].weight[3, 4] = 5.0
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, index):
            if self.validation is not None and index == 0:
                self.log("val_loss", float(self.validation[min(self.seen, len(self.validation) - 1)]))
                self.seen += 1

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    return Network(**options)


def fit(pl, tmp_path, *callbacks, model=None, ckpt_path=None, **options):
    data = TensorDataset(torch.randn(64, 60, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4)
    trainer = pl.Trainer(
        max_steps=options.pop("max_steps", 100),
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **options,
    )
    loader = DataLoader(data, 8)
    trainer.fit(model or network(pl), loader, loader, ckpt_path=ckpt_path)
    return trainer


def watching(**options):
    return SpectralMonitor(every_n_steps=4, executor="sync", **options)


@pytest.fixture
def pl(request):
    return importlib.import_module(getattr(request, "param", "pytorch_lightning"))


@pytest.mark.parametrize("pl", ["pytorch_lightning", "lightning.pytorch"], indirect=True)
@pytest.mark.parametrize("order", [1, -1])
def test_a_training_is_ended_and_says_why_once(pl, tmp_path, caplog, order):
    stopping = SpectralEarlyStopping(rules=["traps"], patience=3)
    with caplog.at_level(logging.INFO):
        trainer = fit(pl, tmp_path, *[watching(), stopping][::order])
    assert 32 <= trainer.global_step <= 33
    assert stopping.stopped_step == 32
    start = "traps at step 32 (stopped at 32): net.0 has 1 correlation trap at step 32"
    assert stopping.stopped_reason.startswith(start)
    assert sum("SpectralEarlyStopping ends the training. traps" in record.message for record in caplog.records) == 1
    assert trainer.callback_metrics["ww/stop/traps"] == 1
    state = stopping.state_dict()
    assert json.loads(json.dumps(state)) == state
    other = SpectralEarlyStopping()
    other.load_state_dict(state)
    assert (other.stopped_step, other.stopped_reason) == (32, stopping.stopped_reason)


@pytest.mark.parametrize("state", [{}, {"stopped_reason": 3}, {"stopped_reason": "", "stopped_step": "3"}])
def test_a_state_of_another_form_is_left_out_with_a_warning(state):
    stopping = SpectralEarlyStopping()
    with pytest.warns(RuntimeWarning, match="state: not that of SpectralEarlyStopping, it is left out"):
        stopping.load_state_dict(state)
    assert (stopping.stopped_reason, stopping.stopped_step) == ("", None)


@pytest.mark.parametrize(("mode", "said"), [("stop", "did not end this training"), ("warn", "gave no warning")])
def test_a_training_that_is_not_ended_says_how_near_each_rule_was(pl, tmp_path, caplog, mode, said):
    stopping = SpectralEarlyStopping(rules=["traps"], patience=9, mode=mode)
    with caplog.at_level(logging.INFO):
        fit(pl, tmp_path, stopping, watching(), max_steps=30)
    (message,) = [record.message for record in caplog.records if "SpectralEarlyStopping" in record.message]
    assert said in message
    assert ". traps 0.33 (net.0 has 1 correlation trap at step 30 (cause: elements), the largest at " in message


def test_a_rule_that_waits_for_a_metric_says_so_at_the_end(pl, tmp_path, caplog):
    stopping = SpectralEarlyStopping(rules=["traps"], patience=3, and_monitor="val_loss")
    with caplog.at_level(logging.INFO):
        fit(pl, tmp_path, watching(), stopping, model=network(pl, validation=range(99, 0, -1)), max_steps=60)
    (message,) = [record.message for record in caplog.records if "SpectralEarlyStopping" in record.message]
    assert ". traps 1 (net.0 has 1 correlation trap" in message
    assert "; it waits for val_loss, which has improved in its last 3 values)" in message


def test_a_slow_analysis_ends_training_at_the_same_step(pl, tmp_path):
    steps = []
    for seconds in (0.0, 0.1):
        stopping = SpectralEarlyStopping(rules=["traps"], patience=3)
        with Delayed(seconds) as executor:
            fit(pl, tmp_path, SpectralMonitor(every_n_steps=4, executor=executor), stopping)
        steps.append(stopping.stopped_step)
    assert steps == [36, 36]  # results of steps 24, 28 and 32


@pytest.mark.filterwarnings("ignore:.*no ratio can change")
@pytest.mark.parametrize(
    ("callback", "waits"),
    [
        (SpectralEarlyStopping(rules=["traps"]), True),
        (SpectralEarlyStopping(rules=["traps"], mode="warn"), False),
        (LayerwiseLearningRate(layers=["net.*"], apply=True), True),
        (LayerwiseLearningRate(layers=["net.*"]), False),
    ],
)
def test_training_waits_for_results_if_a_callback_acts_on_them(pl, tmp_path, callback, waits):
    for given, expected in ((None, waits), (False, False), (True, True)):
        monitor = watching(deterministic=given)
        fit(pl, tmp_path, monitor, callback, max_steps=8)
        assert monitor.monitor.waits is expected


def test_a_late_verdict_says_which_step_was_judged_and_when_it_came(pl, tmp_path):
    stopping = SpectralEarlyStopping(rules=["traps"], patience=3)
    monitor = SpectralMonitor(every_n_steps=4)
    assert fit(pl, tmp_path, monitor, stopping).global_step == 36
    assert stopping.stopped_reason.startswith("traps at step 32 (stopped at 36): net.0")


def test_warn_only_warns_and_training_is_the_same(pl, tmp_path):
    stopping = SpectralEarlyStopping(rules=["traps"], patience=3, mode="warn")
    with pytest.warns(
        RuntimeWarning, match="training could end: traps at step 32 .warned at 32.: net.0 has 1"
    ) as caught:
        trainer = fit(pl, tmp_path, stopping, watching(), max_steps=60)
    assert sum("training could end" in str(warning.message) for warning in caught) == 1
    assert (trainer.global_step, stopping.stopped_step) == (60, 32)


@pytest.mark.parametrize("asked", ["val_loss", "auto"])
def test_with_a_metric_training_ends_when_that_has_stalled_too(pl, tmp_path, asked):
    stopping = SpectralEarlyStopping(rules=["traps"], patience=3, and_monitor=asked)
    model = network(pl, validation=[9, 8, 7, 6, 5, 4, 4, 4, 4, 4])  # one an epoch of 8 steps: none better after step 48
    trainer = fit(pl, tmp_path, watching(), stopping, model=model, max_steps=200)
    assert trainer.global_step == 76
    assert "val_loss has not improved in its last 3 values" in stopping.stopped_reason


def test_the_rules_wait_for_the_first_value_of_a_validation_loss(pl, tmp_path):
    stopping, monitor = SpectralEarlyStopping(rules=["traps"], patience=3), watching()
    model = network(pl, validation=[9, 8])
    fit(pl, tmp_path, monitor, stopping, model=model, max_steps=60, check_val_every_n_epoch=5)
    assert stopping.stopped_reason == ""  # sure at step 32; the first validation is at step 40
    assert "it waits for val_loss" in monitor.published.verdicts["stop"]["texts"]["traps"]


@pytest.mark.parametrize("scheduled", [True, False])
def test_the_learning_rate_is_known(pl, tmp_path, scheduled):
    model, monitor = network(pl), watching()
    if scheduled:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, gamma=0.1)
        model.configure_optimizers = lambda: ([optimizer], [{"scheduler": schedule, "interval": "step"}])
    fit(pl, tmp_path, monitor, SpectralEarlyStopping(), model=model, max_steps=16)
    assert [step for step, _ in monitor.history.recorded("learning_rate")] == [0, 4, 8, 12, 16]
    rates = [rate for _, rate in monitor.history.recorded("learning_rate")]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-4] if scheduled else [1e-3] * 5)


def test_a_metric_that_nobody_logs_is_told_once(pl, tmp_path):
    stopping = SpectralEarlyStopping(rules=["traps"], patience=3, and_monitor="val_los")
    with pytest.warns(RuntimeWarning, match="and_monitor: 'val_los' is not logged") as caught:
        trainer = fit(pl, tmp_path, watching(), stopping, model=network(pl, validation=[1]), max_steps=60)
    assert sum("and_monitor" in str(warning.message) for warning in caught) == 1
    assert trainer.global_step == 60


def test_a_second_training_goes_on_with_the_history_and_is_ended_by_a_result_of_its_own(pl, tmp_path):
    stopping, monitor = SpectralEarlyStopping(rules=["traps"], patience=3), watching()
    model = network(pl)
    trainer = fit(pl, tmp_path, monitor, stopping, model=model)
    trainer.fit_loop.epoch_loop.max_steps = 200
    data = TensorDataset(torch.randn(64, 60), torch.arange(64) % 4)
    trainer.fit(model, DataLoader(data, 8))
    assert trainer.global_step == stopping.stopped_step == 36
    assert stopping.stopped_reason.startswith("traps at step 36 (stopped at 36): net.0 has 1 correlation trap")


def test_without_a_monitor_or_with_a_pattern_that_matches_nothing_training_does_not_begin(pl, tmp_path):
    with pytest.raises(ValueError, match="SpectralEarlyStopping needs a SpectralMonitor among the callbacks"):
        fit(pl, tmp_path, SpectralEarlyStopping())
    with pytest.raises(ValueError, match="layers: 'conv' matches no layer"):
        fit(pl, tmp_path, watching(), SpectralEarlyStopping(layers=["conv"]))
    with pytest.raises(ValueError, match="mode: expected one of 'stop', 'warn', got 'end'"):
        SpectralEarlyStopping(mode="end")
    with pytest.raises(ValueError, match="rules: expected one of"):
        SpectralEarlyStopping(rules=["alpha"])


def test_a_trial_run_of_lightning_is_left_alone(pl, tmp_path):
    fit(pl, tmp_path, watching(), SpectralEarlyStopping(), fast_dev_run=True, max_steps=1)
