"""Where the results of a Trainer go: the real integrations of report_to, the log history, checkpoints."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_trainer import Trap, torch, trainer_of, transformers
from wandb_file import alerts, rows

import ww_callbacks as ww
from ww_callbacks.huggingface import SpectralMonitor
from ww_callbacks.outputs.tensorboard import records

pytestmark = pytest.mark.timeout(180)

STEPS = [0, 5, 10, 12]
FROZEN = "model.layers.0.mlp.gate_proj"


def monitored(**arguments: Any) -> SpectralMonitor:
    return SpectralMonitor(every_n_steps=5, deterministic=True, figures=False, **arguments)


def train(folder: Path, *callbacks: Any, resume: Path | None = None, **arguments: Any) -> Any:
    """Train with a layer that is frozen; returns the Trainer."""
    trainer = trainer_of(folder, *callbacks, **arguments)
    trainer.model.get_submodule(FROZEN).requires_grad_(False)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


class Integration(transformers.integrations.TensorBoardCallback):
    """An integration that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.is_open = False

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.is_open = True

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.is_open = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        assert self.is_open
        self.logged.append((state.global_step, logs))


class Other(transformers.TrainerCallback):
    """A callback of the user's that expects the logs of the Trainer alone."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        assert {"loss", "train_loss"} & set(logs)


def test_an_integration_gets_each_snapshot_at_its_step_while_it_is_open(tmp_path: Path) -> None:
    monitor, integration = monitored(), Integration()
    trainer = train(tmp_path, integration, monitor, Other())
    ours = [(step, logs) for step, logs in integration.logged if "ww/alpha" in logs]
    assert [step for step, _ in ours] == STEPS
    assert [logs["ww/alpha"] for _, logs in ours] == pytest.approx(monitor.history.series("alpha"))
    assert "ww_layer/alpha/002.model.layers.0.self_attn.k_proj" in ours[0][1]
    assert [step for step, logs in integration.logged if "loss" in logs] == [4, 8, 12]
    assert trainer.state.global_step == 12  # not that of a snapshot


def test_the_log_history_of_the_trainer_stays_as_it_is_between_our_entries(tmp_path: Path) -> None:
    without, with_it = (
        train(tmp_path, *callbacks).state.log_history for callbacks in ([], [Integration(), monitored()])
    )
    assert "train_runtime" in with_it[-1]  # the summary of the training is the last entry
    theirs = [entry for entry in with_it if "ww/alpha" not in entry]
    assert [entry.keys() for entry in theirs] == [entry.keys() for entry in without]
    assert [entry.get("loss") for entry in theirs] == [entry.get("loss") for entry in without]
    assert [entry["step"] for entry in with_it if "ww/alpha" in entry] == STEPS


class Refusing(Integration):
    """An integration that takes the logs of the Trainer and no others."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        super().on_log(args, state, control, logs=logs)
        if "ww/alpha" in logs:
            raise ConnectionError("no route to host")


def test_an_integration_that_refuses_is_dropped_and_training_goes_on(tmp_path: Path) -> None:
    refusing, taking = Refusing(), Integration()
    with pytest.warns(
        RuntimeWarning, match="ReportedLogs is disabled: RuntimeError: Refusing: ConnectionError: no rou"
    ):
        train(tmp_path, refusing, taking, monitored())
    assert len([logs for _, logs in refusing.logged if "ww/alpha" in logs]) == 1
    assert len([logs for _, logs in taking.logged if "ww/alpha" in logs]) == len(STEPS)
    assert len([logs for _, logs in refusing.logged if "loss" in logs]) == 3


def test_tensorboard_has_the_results_beside_the_loss(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event

    train(tmp_path, monitored(), report_to=["tensorboard"])
    (path,) = tmp_path.glob("runs/*/events*")
    with path.open("rb") as file:
        events = [Event.FromString(data) for data in records(file)]
    steps: dict[str, list[int]] = {}
    for event in events:
        for value in event.summary.value:
            steps.setdefault(value.tag, []).append(event.step)
    assert steps["ww/alpha"] == STEPS
    assert steps["train/loss"] == [4, 8, 12]
    assert steps["ww/finding/frozen"] == [5, 10, 12]


def test_mlflow_has_the_metrics_and_the_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its newest version wants to be told
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"file:{tmp_path / 'mlruns'}")
    try:
        train(tmp_path, monitored(), report_to=["mlflow"])
        client = mlflow.MlflowClient()
        (run,) = client.search_runs(["0"])
        assert [point.step for point in client.get_metric_history(run.info.run_id, "ww/alpha")] == STEPS
        assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [4, 8, 12]
        assert run.data.tags["ww.finding.frozen"].startswith(f"{FROZEN} has not changed since step 0")
    finally:
        mlflow.end_run()
        mlflow.set_tracking_uri(before)


def test_trackio_has_the_metrics_and_the_alerts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when it is imported
    pytest.importorskip("trackio", reason="needs an older Pillow than constraints.txt has")
    from trackio.sqlite_storage import SQLiteStorage

    train(tmp_path, monitored(), report_to=["trackio"], project="reports", run_name="first")
    logged = [row for row in SQLiteStorage.get_logs("reports", "first") if "train/ww/alpha" in row]
    assert [row["train/global_step"] for row in logged] == STEPS
    sent = SQLiteStorage.get_alerts("reports", "first")
    assert (f"frozen in {FROZEN}", "info", 5) in [(each["title"], each["level"], each["step"]) for each in sent]


@pytest.mark.slow
def test_wandb_has_the_metrics_and_the_alerts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    try:
        train(tmp_path, monitored(), report_to=["wandb"])
    finally:
        wandb.finish()
        wandb.teardown()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    logged = [row for row in rows(path) if "train/ww/alpha" in row]
    assert [row["train/global_step"] for row in logged] == STEPS
    assert [row["train/global_step"] for row in rows(path) if "train/loss" in row] == [4, 8, 12]
    assert (f"frozen in {FROZEN}", "INFO") in [(title, level) for title, _, level in alerts(path)]
    left = {process.pid for process in psutil.Process().children(recursive=True)} - before
    assert not {pid for pid in left if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[ww.History, Path]:
    """The history of a run, and its checkpoint of step 6, which was moved since."""
    folder = tmp_path_factory.mktemp("saved")
    monitor = monitored(executor="sync")  # results are in at once, so the checkpoint has them all
    train(folder / "first", monitor, save_strategy="steps", save_steps=6)
    shutil.move(folder / "first" / "checkpoint-6", folder / "moved")
    return monitor.history, folder / "moved"


def test_a_resumed_run_goes_on_with_its_history(saved: tuple[ww.History, Path], tmp_path: Path) -> None:
    history, checkpoint = saved
    raised: list[ww.Finding] = []
    monitor, integration = monitored(executor="sync", on_finding=raised.append), Integration()
    trainer = train(tmp_path, monitor, integration, resume=checkpoint)
    assert trainer.state.global_step == 12
    assert monitor.history.steps == STEPS
    assert monitor.history.series("alpha") == pytest.approx(history.series("alpha"), rel=1e-4)
    assert [step for step, logs in integration.logged if "ww/alpha" in logs] == [10, 12]
    assert [entry["step"] for entry in trainer.state.log_history if "ww/alpha" in entry] == STEPS
    assert "frozen" not in [finding.kind for finding in raised]  # it was raised at step 5
    assert [finding.since for finding in monitor.history.findings if finding.kind == "frozen"] == [0]


def test_a_resumed_run_stops_where_it_would_have_stopped(tmp_path: Path) -> None:
    steps = []
    for resume in (None, tmp_path / "checkpoint-11"):
        monitor = SpectralMonitor(every_n_steps=1, figures=False, stop=ww.EarlyStopping(rules=["traps"], patience=3))
        trainer = trainer_of(tmp_path, Trap(), monitor, max_steps=40, save_strategy="steps", save_steps=11)
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        assert monitor.published.verdicts["stop"]["rule"] == "traps"
        steps.append(trainer.state.global_step)
    assert steps[0] == steps[1] < 40


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"step": 6, "history"', "cannot be read, a new history begins"),
        ('{"step": "six"}', "state: not that of a monitor"),
        ("[6]", "state: not that of a monitor"),
    ],
)
def test_a_damaged_state_is_left_out(content: str, words: str, saved: Any, tmp_path: Path) -> None:
    shutil.copytree(saved[1], tmp_path / "checkpoint-6")
    (tmp_path / "checkpoint-6" / "ww_state.json").write_text(content)
    monitor = monitored()
    with pytest.warns(RuntimeWarning, match=words):
        train(tmp_path, monitor, resume=tmp_path / "checkpoint-6")
    assert monitor.history.steps == [6, 10, 12]


def test_a_checkpoint_without_our_state_begins_a_new_history(saved: Any, tmp_path: Path) -> None:
    shutil.copytree(saved[1], tmp_path / "checkpoint-6")
    (tmp_path / "checkpoint-6" / "ww_state.json").unlink()
    monitor = monitored()
    train(tmp_path, monitor, resume=tmp_path / "checkpoint-6")
    assert monitor.history.steps == [6, 10, 12]


def test_a_state_that_cannot_be_written_is_said_and_training_goes_on(tmp_path: Path) -> None:
    class Full(transformers.TrainerCallback):
        """Puts something else where the state is to be written."""

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            os.mkdir(tmp_path / f"checkpoint-{state.global_step}" / "ww_state.json.part")

    monitor = monitored()
    with pytest.warns(
        RuntimeWarning, match="the checkpoint of step .* has no spectra, training continues: .*directory"
    ):
        trainer = train(tmp_path, Full(), monitor, save_strategy="steps", save_steps=6)
    assert trainer.state.global_step == 12
    assert monitor.history.steps == STEPS
    assert torch.isfinite(trainer.model.lm_head.weight).all()
