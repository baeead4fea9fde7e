"""What the page shows of runs that Lightning, `follow` and a SummaryWriter wrote."""

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.outputs.tensorboard import SummaryWriterOutput
from ww_callbacks.page.runs import Runs

pytestmark = pytest.mark.timeout(120)


def shown(folder):
    """The only run in a folder."""
    ((_, files, _),) = Runs(folder).listed()
    assert files.problem == ""
    return files.run


def assert_shows(run, history):
    assert run.answer()["steps"] == history.steps
    expected = [[layer.alpha for layer in report] for report in history]
    np.testing.assert_allclose(run.column("alpha"), np.array(expected, float), rtol=1e-6)
    last = len(history) - 1
    for index, layer in enumerate(history[-1]):
        if layer.status == "ok":
            assert tuple(run.cell(index, last)["histogram"]["counts"]) == layer.histogram.counts


def test_the_event_file_of_a_summary_writer(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    weights = {"fc": np.random.default_rng(0).standard_normal((80, 60))}
    with (
        SummaryWriter(tmp_path / "run") as writer,
        ww.Monitor(
            weights, every_n_steps=5, executor="sync", outputs=[SummaryWriterOutput(writer)], figures=False
        ) as monitor,
    ):
        for step in range(1, 11):
            monitor.step(step)
            writer.add_scalar("train_loss", 1 / step, step)
    run = shown(tmp_path)
    assert_shows(run, monitor.history)
    assert [curve["name"] for curve in run.answer()["curves"]] == ["train_loss"]


def test_the_event_file_of_lightnings_logger(tmp_path):
    pl = pytest.importorskip("pytorch_lightning")
    import torch

    from ww_callbacks.lightning import SpectralMonitor

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(60, 50)

        def training_step(self, batch, index):
            loss = self.fc(batch).square().mean()
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monitor = SpectralMonitor(every_n_steps=2, figures=False)
    trainer = pl.Trainer(
        max_steps=6,
        callbacks=[monitor],
        logger=pl.loggers.TensorBoardLogger(tmp_path),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(24, 60), batch_size=4))
    run = shown(tmp_path)
    assert run.name == "lightning_logs/version_0"
    assert_shows(run, monitor.history)
    curves = {curve["name"]: curve for curve in run.answer()["curves"]}
    assert len(curves["train_loss"]["steps"]) == 6
    assert curves["learning_rate"]["values"][-1] == pytest.approx(0.1)  # recorded by the callback


def test_the_files_of_a_followed_run(tmp_path):
    rng = np.random.default_rng(0)
    for step in (0, 10, 20):
        np.savez(tmp_path / f"step-{step}.npz", **{"fc.weight": rng.standard_normal((80, 60))})
    history = ww.follow(tmp_path, once=True, figures=False)
    run = shown(tmp_path)
    assert run.name == "ww_follow"
    assert_shows(run, history)
    assert run.answer()["rules"] != []
