"""Rates per layer in real trainings with Lightning."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ww_callbacks.lightning import LayerwiseLearningRate, SpectralMonitor

pytestmark = pytest.mark.timeout(120)


class Network(pl.LightningModule):
    def __init__(self, fail_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(*(nn.Linear(60, 60) for _ in range(4)), nn.Linear(60, 4))
        self.fail_at, self.rates = fail_at, []

    def training_step(self, batch, index):
        self.rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
        if index == self.fail_at:
            raise RuntimeError("stop here")
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(tmp_path, *callbacks, model=None, **options):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(96, 60, generator=generator), torch.arange(96) % 4)
    model = model or Network()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )
    trainer.fit(model, DataLoader(data, 8))
    return trainer, model


def monitor():
    return SpectralMonitor(every_n_steps=2, when_busy="wait", randomize=False)


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(weights(first), weights(second), strict=True))


def test_applied_rates_are_at_work_and_unseen_and_without_apply_nothing_changes(tmp_path):
    _, plain = fit(tmp_path)
    _, told = fit(tmp_path, LayerwiseLearningRate(), monitor())
    assert same(plain, told)
    _, ones = fit(tmp_path, monitor(), LayerwiseLearningRate(apply=True, low=1, high=1, mapping="linear"))
    assert same(plain, ones)
    callback, watching = LayerwiseLearningRate(apply=True, ramp_steps=0), monitor()
    trainer, steered = fit(tmp_path, callback, watching)
    assert not same(plain, steered)
    ratios = watching.monitor.lr_ratios()
    assert (min(ratios.values()), max(ratios.values())) == (0.5, 1.5)
    assert (ratios["net.0"], ratios["net.4"]) == (1, 1)
    assert steered.rates == plain.rates
    assert "step" not in trainer.optimizers[0].__dict__ or not trainer.optimizers[0]._optimizer_step_pre_hooks
    assert callback.state_dict()["target"]


def test_after_an_exception_in_training_step_the_rate_is_the_users(tmp_path):
    model = Network(fail_at=9)
    callback = LayerwiseLearningRate(apply=True, ramp_steps=0)
    with pytest.raises(RuntimeError, match="stop here"):
        fit(tmp_path, monitor(), callback, model=model)
    [group] = model.trainer.optimizers[0].param_groups
    assert group["lr"] == pytest.approx(0.001)
    assert len(group["params"]) == 10
    assert not model.trainer.optimizers[0]._optimizer_step_pre_hooks


def test_without_a_monitor_training_does_not_begin(tmp_path):
    model = Network()
    with pytest.raises(ValueError, match="needs a SpectralMonitor among the callbacks"):
        fit(tmp_path, LayerwiseLearningRate(), model=model)
    assert not model.rates


def test_wrong_ranges_are_told_at_construction():
    with pytest.raises(ValueError, match="low, high: expected 0 < low <= high"):
        LayerwiseLearningRate(low=2.0)
    with pytest.raises(TypeError, match="apply: expected True or False"):
        LayerwiseLearningRate(apply="yes")
