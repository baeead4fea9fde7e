"""The callback in trainings of a real transformers.Trainer, of a tiny model with random weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import psutil
import pytest
from delayed import Delayed
from tiny_trainer import Trap, trainer_of

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

import ww_callbacks as ww  # noqa: E402
from ww_callbacks.huggingface import SpectralMonitor  # noqa: E402

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def nothing_survives() -> Any:
    yield
    workers = [p for p in psutil.Process().children(recursive=True) if "ww_callbacks.worker" in p.cmdline()]
    assert not workers


def test_snapshots_follow_the_optimizer_steps_and_end_with_the_trained_weights(tmp_path: Path) -> None:
    monitor = SpectralMonitor(every_n_steps=5, deterministic=True, jsonl=str(tmp_path / "history.jsonl"))
    trainer = trainer_of(tmp_path, monitor, gradient_accumulation_steps=2, per_device_train_batch_size=4)
    trainer.train()
    assert monitor.history.steps == [0, 5, 10, 12]
    expected = ww.analyze(trainer.model)
    assert monitor.history[-1].summary()["alpha"] == pytest.approx(expected.summary()["alpha"], rel=1e-6)
    assert list(ww.read_jsonl(tmp_path / "history.jsonl")) == list(monitor.history)
    logged = [entry for entry in trainer.state.log_history if "ww/alpha" in entry]
    assert [entry["step"] for entry in logged] == monitor.history.steps
    assert [entry["ww/alpha"] for entry in logged] == pytest.approx(monitor.history.series("alpha"))
    assert not any(key.startswith("ww_layer") for entry in logged for key in entry)


def test_training_is_the_same_with_it(tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [SpectralMonitor(every_n_steps=3)]):
        trainer = trainer_of(tmp_path, *callbacks)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class Analysed(transformers.TrainerCallback):
    """Analyses the weights after each step."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.alpha = ww.analyze(model).summary()["alpha"]


def test_the_best_model_and_early_stopping_go_by_alpha(tmp_path: Path) -> None:
    monitor = SpectralMonitor(every_n_steps=100)
    stopping = transformers.EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=100.0)
    analysed = Analysed()
    trainer = trainer_of(
        tmp_path,
        monitor,
        stopping,
        analysed,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_ww/alpha",
        greater_is_better=False,
    )
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer.state.best_metric == pytest.approx(monitor.history[0].summary()["alpha"])
    assert monitor.history.steps == [0, 4]
    assert monitor.history[-1].summary()["alpha"] == pytest.approx(analysed.alpha)  # not that of the best model


def test_it_ends_training_on_request(tmp_path: Path) -> None:
    steps = []
    for seconds in (0.0, 0.01):  # a slow analysis changes nothing
        with Delayed(seconds) as executor:
            rules = ww.EarlyStopping(rules=["traps"], patience=3)
            monitor = SpectralMonitor(every_n_steps=1, executor=executor, stop=rules)
            trainer = trainer_of(tmp_path, Trap(), monitor, max_steps=50)
            trainer.train()
        assert monitor.published.verdicts["stop"]["rule"] == "traps"
        steps.append(trainer.state.global_step)
    assert steps[0] == steps[1] < 50


def test_a_stop_is_said_once_in_the_logger_of_transformers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rules = ww.EarlyStopping(rules=["traps"], patience=2)
    monitor = SpectralMonitor(every_n_steps=1, executor="sync", figures=False, stop=rules, prefix="lm")
    with caplog.at_level(logging.WARNING, "transformers"):
        trainer = trainer_of(tmp_path, Trap(), monitor, max_steps=50)
        trainer.train()
    said = [record.getMessage() for record in caplog.records if record.name == "transformers.ww_callbacks"]
    assert said == [f"SpectralMonitor ends the training. {monitor.published.stop_reason}"]
    assert [entry["step"] for entry in trainer.state.log_history if "lm/alpha" in entry] == monitor.history.steps
    assert not [key for entry in trainer.state.log_history for key in entry if key.startswith("ww")]


class EndsAt(transformers.TrainerCallback):
    """Another callback that ends training."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= 5


@pytest.mark.parametrize("as_class", [True, False])
def test_the_end_of_another_callback_is_respected(tmp_path: Path, as_class: bool) -> None:
    monitor = SpectralMonitor if as_class else SpectralMonitor(executor="sync", figures=False)
    trainer = trainer_of(tmp_path, EndsAt, monitor, max_steps=50)
    trainer.train()
    assert trainer.state.global_step == 5
    (made,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, SpectralMonitor)]
    assert made.history.steps == [0, 5]


def test_the_evaluation_loss_is_asked_and_the_rate_is_known(tmp_path: Path) -> None:
    rules = ww.EarlyStopping(rules=["traps"], patience=3)
    monitor = SpectralMonitor(every_n_steps=1, stop=rules)
    trainer = trainer_of(tmp_path, Trap(), monitor, max_steps=20, eval_strategy="steps", eval_steps=10)
    trainer.train()
    assert trainer.state.global_step == 20  # two values are no stall
    assert len(monitor.history.recorded("eval_loss")) == 2
    rates = [rate for _, rate in monitor.history.recorded("learning_rate")]
    assert rates[0] == pytest.approx(1e-2, rel=0.1)
    assert rates[-1] < 0.2 * rates[0]  # the linear schedule of the Trainer
    assert "it waits for eval_loss" in monitor.published.verdicts["stop"]["texts"]["traps"]


def test_the_end_says_how_near_the_rules_were(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ww_callbacks"):
        trainer_of(tmp_path, SpectralMonitor(every_n_steps=5, stop=True, randomize=False), max_steps=6).train()
    messages = [record.message for record in caplog.records]
    assert sum("EarlyStopping did not end this training. plateau 0, traps 0" in message for message in messages) == 1


def test_the_printed_logs_carry_alpha_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer_of(tmp_path, SpectralMonitor(every_n_steps=2, deterministic=True, randomize=False)).train()
    assert "ww/alpha" not in capsys.readouterr().out
    trainer_of(tmp_path, SpectralMonitor(every_n_steps=2, deterministic=True, randomize=False, prog_bar=True)).train()
    assert "'ww/alpha': " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"every_n_steps": 0}, ValueError, "every_n_steps: expected at least 1, got 0"),
        ({"every_steps": 5}, TypeError, "unexpected keyword argument .every_steps."),
        ({"stop": 1}, TypeError, "stop: expected True or False, got 1"),
        ({"log_dir": 5}, TypeError, "log_dir: expected a path"),
    ],
)
def test_arguments_are_checked_at_once(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SpectralMonitor(**arguments)
