"""Results in the loggers of Lightning, each by names that it accepts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer, loggers
from torch import nn
from wandb_file import alerts
from wandb_file import rows as wandb_rows

import ww_callbacks as ww
from ww_callbacks.lightning import SpectralEarlyStopping, SpectralMonitor
from ww_callbacks.lightning.loggers import LoggerOutput
from ww_callbacks.outputs.metrics import aggregate_metrics, layer_metrics

pytestmark = pytest.mark.timeout(180)

STEPS = [0, 5, 10, 12]


class Network(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        frozen = nn.Linear(80, 60).requires_grad_(False)
        self.net = nn.ModuleDict({"block a": nn.Linear(80, 60), "block:b": nn.Linear(60, 4), "frozen": frozen})

    def training_step(self, batch: Any, _index: int) -> torch.Tensor:
        loss = self.net["block:b"](self.net["block a"](batch)).square().mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def train(logger: Any, tmp_path: Path) -> SpectralMonitor:
    monitor = SpectralMonitor(every_n_steps=5, deterministic=True)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        callbacks=[monitor, SpectralEarlyStopping()],
    )
    trainer.fit(Network(), torch.utils.data.DataLoader(torch.randn(96, 80), batch_size=8))
    assert monitor.history.steps == STEPS
    return monitor


def test_mlflow_takes_every_metric_at_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its newest version wants to be told
    uri = f"file:{tmp_path / 'runs'}"
    logger = loggers.MLFlowLogger("test", tracking_uri=uri)
    monitor = train(logger, tmp_path)
    client = mlflow.MlflowClient(uri)

    def points(key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in client.get_metric_history(logger.run_id, key)]

    assert points("ww/alpha") == list(zip(STEPS, monitor.history.series("alpha"), strict=True))
    alphas = monitor.history.series("alpha", "net.block a")
    assert points("ww_layer/alpha/000.net.block_a") == list(zip(STEPS, alphas, strict=True))
    assert [step for step, _ in points("ww/stop/plateau")] == STEPS
    assert len(points("train_loss")) == 12
    data = client.get_run(logger.run_id).data
    assert {"ww/lag_steps", "ww/num_traps", "ww_layer/log_norm/001.net.block_b"} <= set(data.metrics)
    assert data.tags["ww.finding.frozen"].startswith("net.frozen has not changed since step 0")
    tables = {item.path for item in client.list_artifacts(logger.run_id, "ww/layers")}
    assert tables == {f"ww/layers/step-{step:09d}.md" for step in STEPS}


@pytest.mark.slow
def test_wandb_offline_takes_every_metric_beside_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    logger = loggers.WandbLogger(save_dir=tmp_path, offline=True, project="test")
    rows: list[dict[str, Any]] = []
    log = logger.experiment.log
    monkeypatch.setattr(
        logger.experiment, "log", lambda values, *rest, **more: (rows.append(dict(values)), log(values, *rest, **more))
    )
    try:
        monitor = train(logger, tmp_path)
        summary = dict(logger.experiment.summary)
    finally:
        logger.experiment.finish()
        wandb.teardown()
    assert summary["ww/alpha"] == pytest.approx(monitor.history[-1].summary()["alpha"])
    assert summary["ww_layer/alpha/000.net.block_a"] == pytest.approx(monitor.history[-1]["net.block a"].alpha)
    ours = [row for row in rows if "ww/alpha" in row]
    assert [row["trainer/global_step"] for row in ours] == STEPS
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    histograms = [row for row in wandb_rows(path) if "ww_layer/log10_eigenvalues/000.net.block_a/values" in row]
    assert [row["trainer/global_step"] for row in histograms] == STEPS
    assert ("frozen in net.frozen", "INFO") in [(title, level) for title, _, level in alerts(path)]
    left = {process.pid for process in psutil.Process().children(recursive=True)} - before
    assert not {pid for pid in left if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}


def every_key() -> list[str]:
    names = ["fc", "block/a", "block a", "schicht ä", "a{b}", "a:b", "a b", "a/b", "a.b", "A:b", "p.q", "x" * 300]
    generator = np.random.default_rng(0)
    report = ww.analyze({name: generator.standard_normal((80, 60)) for name in names})
    stops = {f"ww/stop/{rule}": 0.0 for rule in ("plateau", "traps", "overtrained")}
    ratios = {f"ww_layer/lr_ratio/{index:03d}.x": 1.0 for index in range(3)}
    return [
        *aggregate_metrics(report, lag_steps=0, skipped=0, over_budget=0),
        *layer_metrics(report, names),
        *stops,
        *ratios,
    ]


@pytest.mark.parametrize(
    ("place", "rule"),
    [
        ("TensorBoard", r"[-\w./]+"),  # other characters become underscores, and tags would meet
        ("MLflow", r"[\w.\-/ ]{1,250}"),
        ("W&B", r"[^\s]+"),
        ("Comet", r"[^\s]+"),
        ("Neptune", r"[^/]+(/[^/]+)*"),  # a path whose parts are not empty
        ("file names of checkpoints", r"[^{}]+"),
    ],
)
def test_names_follow_the_rule_of_each_place(place: str, rule: str) -> None:
    assert [key for key in every_key() if not re.fullmatch(rule, key, re.ASCII)] == []


def test_no_two_layers_have_one_name_and_no_name_is_the_folder_of_another() -> None:
    """MLflow's file store and Neptune keep them as paths, which some file systems compare without case."""
    keys = {key.lower() for key in every_key()}
    assert len(keys) == len(every_key())
    assert [key for key in keys if any(other.startswith(f"{key}/") for other in keys)] == []


def test_a_logger_that_ignores_steps_gets_the_step_as_a_value() -> None:
    class NeptuneLogger:
        """Like that of Lightning, whose package is not installed here."""

        def __init__(self) -> None:
            self.logged: list[tuple[dict[str, float], int | None]] = []

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.logged.append((metrics, step))

    logger = NeptuneLogger()
    LoggerOutput(logger).write(ww.Report((), step=40), {"ww/alpha": 3.0}, 0.0)
    assert logger.logged == [({"ww/alpha": 3.0, "ww/step": 40.0}, 40)]
