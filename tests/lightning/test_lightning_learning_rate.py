"""Rates per layer in real trainings with Lightning."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import lightning.pytorch  # noqa: F401 - both distributions are loaded
import pytest
import pytorch_lightning
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

import ww_callbacks as ww
from ww_callbacks.lightning import LayerwiseLearningRate, SpectralMonitor
from ww_callbacks.torch import layerwise

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("error:ww_callbacks")]

both_distributions = pytest.mark.parametrize("pl", ["pytorch_lightning", "lightning.pytorch"], indirect=True)
second_distribution_is_slow = pytest.mark.parametrize(
    "pl", ["pytorch_lightning", pytest.param("lightning.pytorch", marks=pytest.mark.slow)], indirect=True
)

STEPS = 12
RATE = 0.1

SCHEDULERS = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 4),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=STEPS + 1),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
}


@pytest.fixture
def pl(request):
    return importlib.import_module(getattr(request, "param", "pytorch_lightning"))


def layers():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(60, 60) for _ in range(4)), nn.Linear(60, 4))


def network(pl, *, manual=False, scheduler=None, failure=None, momentum=0.0, parameters=None):
    """One optimizer, or two by hand; it notes the rates that ``training_step`` sees."""

    class Network(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.other = layers(), nn.Linear(60, 4)
            self.automatic_optimization = not manual
            self.rates = []

        def training_step(self, batch, index):
            self.rates.append([group["lr"] for o in self.trainer.optimizers for group in o.param_groups])
            self.log("rate", self.rates[-1][0])
            self.log("flat", 1.0)
            if failure is not None and index == STEPS - 3:
                raise failure
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            if manual:
                optimizers = self.optimizers()
                for optimizer in optimizers:
                    optimizer.zero_grad()
                self.manual_backward(loss)
                for optimizer in optimizers:
                    optimizer.step()
            return loss

        def configure_optimizers(self):
            make = lambda these: torch.optim.SGD(these, lr=RATE, momentum=momentum)  # noqa: E731
            if manual:
                return [make(self.net[:2].parameters()), make([*self.net[2:].parameters(), *self.other.parameters()])]
            optimizer = make(parameters(self) if parameters else self.net.parameters())
            if scheduler is None:
                return optimizer
            settings = {"scheduler": SCHEDULERS[scheduler](optimizer), "interval": "step", "monitor": "flat"}
            return {"optimizer": optimizer, "lr_scheduler": settings}

    return Network()


def data():
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(8 * STEPS, 60, generator=generator), torch.arange(8 * STEPS) % 4), 8)


def fit(pl, tmp_path, model, *callbacks, checkpoint=None, **options):
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "default_root_dir": tmp_path,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any("Checkpoint" in type(each).__name__ for each in callbacks),
        "log_every_n_steps": 1,
    }
    trainer = pl.Trainer(callbacks=list(callbacks), **(defaults | options))
    trainer.fit(model, data(), ckpt_path=checkpoint)
    return trainer


def monitor(**options):
    return SpectralMonitor(
        **({"every_n_steps": 2, "deterministic": True, "randomize": False, "executor": "sync"} | options)
    )


def rows_of(logger):
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def weights(model):
    return [parameter.detach().clone() for parameter in model.net.parameters()]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(weights(first), weights(second), strict=True))


def is_free(optimizer):
    return not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


@both_distributions
def test_applied_rates_are_at_work_and_unseen_and_without_apply_nothing_changes(pl, tmp_path):
    def trained(*callbacks):
        model = network(pl, momentum=0.9, scheduler="step")
        fit(pl, tmp_path, model, *callbacks)
        return model

    plain = trained()
    assert same(plain, trained(LayerwiseLearningRate(), monitor()))
    assert same(plain, trained(monitor(), LayerwiseLearningRate(shrink=False, apply=True, low=1, high=1)))
    callback, watching = LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0), monitor()
    steered = trained(callback, watching)
    assert not same(plain, steered)
    ratios = watching.monitor.lr_ratios()
    assert (min(ratios.values()), max(ratios.values())) == (0.5, 1.5)
    assert (ratios["net.0"], ratios["other"]) == (1, 1)
    assert steered.rates == plain.rates
    assert is_free(steered.trainer.optimizers[0])


def meter(pl, watching):
    """By what the rate of each layer was multiplied in each update, and what had been published then."""

    class Meter(pl.Callback):
        def __init__(self):
            self.found, self.told = [], []

        def on_train_batch_start(self, trainer, module, *_):
            self.before, self.grads = weights(module)[::2], {}
            verdict = watching.published.verdicts["lr_ratio"]
            told = dict(zip(verdict["layers"], verdict["ratios"], strict=True))
            self.told.append([told[f"net.{i}"] for i in range(5)])

        def on_before_optimizer_step(self, trainer, module, optimizer):
            self.grads.update({i: layer.weight.grad.clone() for i, layer in enumerate(module.net)})

        def on_train_batch_end(self, trainer, module, *_):
            moved = [before - after for before, after in zip(self.before, weights(module)[::2], strict=True)]
            self.found.append([float(moved[i].norm() / grad.norm()) / RATE for i, grad in sorted(self.grads.items())])

    return Meter()


@both_distributions
@pytest.mark.parametrize("how", ["automatic", "manual with two", "bf16-mixed", "scaler"])
def test_every_update_uses_the_published_ratios(pl, tmp_path, how):
    if how == "scaler":
        plugin = importlib.import_module(f"{pl.__name__}.plugins.precision").MixedPrecision
        options = {"plugins": [plugin("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0))]}
    else:
        options = {"precision": "bf16-mixed"} if how == "bf16-mixed" else {}
    model, watching = network(pl, manual=how == "manual with two"), monitor()
    meters = meter(pl, watching)
    fit(pl, tmp_path, model, LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0), watching, meters, **options)
    assert len(meters.found) == STEPS
    for found, told in zip(meters.found, meters.told, strict=True):
        assert found == pytest.approx(told, rel=1e-3)
    assert any(set(told) >= {0.5, 1.0, 1.5} for told in meters.told)
    assert all(set(rates) == {RATE} for rates in model.rates)
    assert all(is_free(optimizer) for optimizer in model.trainer.optimizers)


@both_distributions
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_loggers_and_schedulers_see_the_users_rate(pl, tmp_path, scheduler):
    runs = []
    for folder, callbacks in [
        ("plain", []),
        ("ours", [monitor(), LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0)]),
    ]:
        logger = importlib.import_module(f"{pl.__name__}.loggers").CSVLogger(tmp_path / folder)
        rate = importlib.import_module(f"{pl.__name__}.callbacks").LearningRateMonitor("step")
        model = network(pl, scheduler=scheduler)
        fit(pl, tmp_path, model, rate, *callbacks, logger=logger)
        rows = rows_of(logger)
        runs.append(
            (
                model.rates,
                [row["rate"] for row in rows if row["rate"]],
                [row["lr-SGD"] for row in rows if row["lr-SGD"]],
            )
        )
    assert runs[0] == runs[1]
    assert len({rate for [rate] in runs[0][0]}) > 1
    assert any(float(row["ww_layer/lr_ratio/001.net.1"] or 1) != 1 for row in rows)


@both_distributions
@pytest.mark.parametrize("failure", [RuntimeError("stop here"), KeyboardInterrupt()])
def test_after_an_exception_in_training_step_the_rate_is_the_users(pl, tmp_path, failure):
    model = network(pl, failure=failure)
    with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
        fit(pl, tmp_path, model, monitor(), LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0))
    assert len(model.rates) == STEPS - 2
    optimizer = model.trainer.optimizers[0]
    assert [(group["lr"], len(group["params"])) for group in optimizer.param_groups] == [(RATE, 10)]
    assert is_free(optimizer)
    assert "step" not in optimizer.__dict__


@second_distribution_is_slow
def test_a_run_that_is_resumed_goes_on_bit_for_bit(pl, tmp_path):
    checkpoints = importlib.import_module(f"{pl.__name__}.callbacks").ModelCheckpoint

    def train(epochs, checkpoint=None):
        model = network(pl, momentum=0.9)
        saving = checkpoints(tmp_path, save_last=True, filename=f"{epochs}", every_n_epochs=1, save_top_k=-1)
        watching = monitor(executor="process")  # which knows the result of a snapshot at the next one
        callbacks = [LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=5), watching, saving]
        fit(pl, tmp_path, model, *callbacks, max_epochs=epochs, checkpoint=checkpoint)
        return model, saving.best_model_path

    whole, _ = train(2)
    _, path = train(1)
    state = torch.load(path, weights_only=True)  # plain values
    [ours] = [value for key, value in state["callbacks"].items() if key.startswith("LayerwiseLearningRate")]
    assert set(ours["target"].values()) >= {0.5, 1.5}
    assert [group["lr"] for group in state["optimizer_states"][0]["param_groups"]] == [RATE]
    resumed, _ = train(2, path)
    assert len(resumed.rates) == STEPS
    assert same(whole, resumed)


def test_lightning_and_a_loop_give_the_same_weights(tmp_path):
    model = network(pytorch_lightning)
    fit(
        pytorch_lightning,
        tmp_path,
        model,
        monitor(),
        LayerwiseLearningRate(shrink=False, apply=True, mapping="sqrt", ramp_steps=3),
    )
    net = network(pytorch_lightning)
    optimizer = torch.optim.SGD(net.net.parameters(), lr=RATE)
    watching = ww.Monitor(net, every_n_steps=2, randomize=False, executor="sync")
    with watching, layerwise(optimizer, source=watching, mapping="sqrt", ramp_steps=3, shrink=False):
        for step, (images, labels) in enumerate(data(), start=1):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net.net(images), labels).backward()
            optimizer.step()
            watching.step(step)
    assert same(model, net)


def test_rate_and_decay_together_are_logged_and_kept_apart(tmp_path):
    pl = pytorch_lightning
    callbacks = importlib.import_module(f"{pl.__name__}.callbacks")
    logger = importlib.import_module(f"{pl.__name__}.loggers").CSVLogger(tmp_path)
    rate = LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0)
    decay = LayerwiseLearningRate(shrink=False, apply=True, quantity="weight_decay", low=2 / 3, high=5.0)
    saving = callbacks.ModelCheckpoint(tmp_path, save_last=True)
    model = network(pl)
    trainer = fit(pl, tmp_path, model, decay, rate, monitor(), saving, logger=logger)
    assert len(trainer.optimizers[0].param_groups) == 1
    assert is_free(trainer.optimizers[0])
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    keys = [key for key in state if "LayerwiseLearningRate" in key]
    assert len(keys) == 2
    assert max(state[next(key for key in keys if "weight_decay" in key)]["target"].values()) == 5.0
    rows = rows_of(logger)
    for name, ends in (("lr_ratio", (0.5, 1.5)), ("weight_decay_ratio", (2 / 3, 5.0))):
        [*_, last] = [
            [float(value) for key, value in row.items() if key.startswith(f"ww_layer/{name}/")]
            for row in rows
            if row["ww/alpha"]
        ]
        assert (min(last), max(last)) == pytest.approx(ends)


def test_without_a_monitor_training_does_not_begin(tmp_path):
    model = network(pytorch_lightning)
    with pytest.raises(ValueError, match="needs a SpectralMonitor among the callbacks"):
        fit(pytorch_lightning, tmp_path, model, LayerwiseLearningRate())
    assert not model.rates


def test_source_says_which_monitor_counts(tmp_path):
    late, early = monitor(every_n_steps=1000, prefix="late"), monitor()
    for source, expected in ((None, {1.0}), (late, {1.0}), (early, {0.5, 1.0, 1.5})):
        callback, model = (
            LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0, source=source),
            network(pytorch_lightning),
        )
        fit(pytorch_lightning, tmp_path, model, late, early, callback)
        ratios = set(callback.state_dict()["target"].values()) or {1.0}
        assert {min(ratios), 1.0, max(ratios)} == expected
    model = network(pytorch_lightning)
    with pytest.raises(ValueError, match="source: this SpectralMonitor is not among the callbacks"):
        fit(pytorch_lightning, tmp_path, model, early, LayerwiseLearningRate(source=monitor()))
    assert not model.rates
    with pytest.raises(TypeError, match="source: expected a SpectralMonitor"):
        LayerwiseLearningRate(source=ww.Monitor(layers()))


def heard(caplog):
    return [each.getMessage() for each in caplog.records if "learning-rate ratios" in each.getMessage()]


def test_it_is_said_once_which_layers_take_part(tmp_path, caplog):
    caplog.set_level("INFO")
    fit(pytorch_lightning, tmp_path, network(pytorch_lightning), monitor(), LayerwiseLearningRate(apply=True))
    [line] = heard(caplog)
    assert line.startswith(
        "learning-rate ratios: 3 layers take part (net.1, net.2, net.3), 3 keep 1: first layer (net.0)"
    )
    fit(pytorch_lightning, tmp_path, network(pytorch_lightning), monitor(), LayerwiseLearningRate())
    assert len(heard(caplog)) == 1  # without apply nothing is steered


def test_a_net_in_which_no_ratio_can_change_is_warned_of_once(tmp_path):
    model = network(pytorch_lightning)
    model.net, model.other = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 60)), nn.Linear(60, 4)
    with pytest.warns(RuntimeWarning, match="no ratio can change") as caught:
        fit(pytorch_lightning, tmp_path, model, monitor(), LayerwiseLearningRate(apply=True))
    assert len([each for each in caught if "no ratio can change" in str(each.message)]) == 1
    assert len(model.rates) == STEPS


def test_an_optimizer_without_the_layers_is_an_error_and_one_without_some_a_warning(tmp_path):
    model = network(pytorch_lightning, parameters=lambda module: nn.Linear(60, 4).parameters())
    with pytest.raises(ValueError, match=r"optimizer: it holds none of the layers \['net.1'"):
        fit(pytorch_lightning, tmp_path, model, monitor(), LayerwiseLearningRate(shrink=False, apply=True))
    assert not model.rates
    model = network(pytorch_lightning, parameters=lambda module: module.net[2:].parameters())
    with pytest.warns(RuntimeWarning, match=r"the layers \['net.1'\] are in no optimizer here"):
        fit(pytorch_lightning, tmp_path, model, monitor(), LayerwiseLearningRate(shrink=False, apply=True))
    assert len(model.rates) == STEPS


def test_wrong_arguments_are_told_at_construction():
    with pytest.raises(ValueError, match="low, high: expected 0 < low <= high"):
        LayerwiseLearningRate(low=2.0)
    with pytest.raises(TypeError, match="apply: expected True or False"):
        LayerwiseLearningRate(apply="yes")


def test_a_pattern_that_matches_nothing_ends_before_the_first_step(tmp_path):
    model = network(pytorch_lightning)
    with pytest.raises(ValueError, match=r"layers: 'nett\.\*' matches no layer"):
        fit(
            pytorch_lightning,
            tmp_path,
            model,
            monitor(),
            LayerwiseLearningRate(shrink=False, apply=True, layers=["nett.*"]),
        )
    assert not model.rates


YAML = """
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_progress_bar: false
  enable_checkpointing: false
  callbacks:
    - class_path: ww_callbacks.lightning.LayerwiseLearningRate
      init_args: {apply: true, mapping: sigmoid, low: 0.25, high: 4, until: 100, layers: ["!other"], ramp_steps: 0,
        shrink: false}
    - class_path: ww_callbacks.lightning.SpectralMonitor
      init_args: {every_n_steps: 2, deterministic: true, randomize: false}
"""


def test_the_command_line_of_lightning_builds_it_from_yaml(tmp_path, monkeypatch):
    pytest.importorskip("jsonargparse")
    lightning_cli = importlib.import_module("pytorch_lightning.cli")
    (tmp_path / "config.yaml").write_text(YAML)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(tmp_path / "config.yaml")])
    module = type(network(pytorch_lightning))
    cli = lightning_cli.LightningCLI(module, save_config_callback=None, seed_everything_default=False, run=False)
    cli.trainer.fit(cli.model, data())
    ratios = cli.trainer.callbacks[1].monitor.lr_ratios()
    assert all(0.25 <= ratio <= 4 for ratio in ratios.values())
    assert ratios["other"] == 1
    assert any(ratio > 1.5 or ratio < 0.5 for ratio in ratios.values())
