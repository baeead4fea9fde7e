"""The study of faults: what is held out, and that each fault is where its run says."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ("dense", "convolutional", "LSTM", "transformer")
QUICK_PAIRS = {
    *(("layer frozen", name) for name in ("dense", "convolutional")),
    *(("gradient cut", name) for name in ("LSTM", "transformer")),
}
"""Each fault that makes a layer stand still, and each architecture, once."""


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "evidence"))
    pytest.importorskip("mlxtend")
    study = importlib.import_module("faults")
    monkeypatch.setattr(study, "STEPS", 40)
    monkeypatch.setattr(study, "PRETRAINING", 5)
    return study


def recorded(faults, fault, architecture, seed=0):
    return faults.record(faults.run_of(fault, architecture, faults.form_of(fault), 1.0, seed))


def test_half_of_the_architectures_of_each_fault_are_held_out(faults):
    chosen, held_out = faults.part(is_held_out=False), faults.part(is_held_out=True)
    assert not set(chosen) & set(held_out)
    assert not {*faults.PARTS["choosing"], faults.RATE_SEED} & set(faults.PARTS["held_out"])
    for half in (chosen, held_out):
        assert set(Counter(fault for fault, _ in half)) == set(faults.FAULTS)
        assert set(Counter(name for _, name in half).values()) <= {7, 8}
    for fault in faults.FAULTS:
        both = [name for half in (chosen, held_out) for other, name in half if other == fault]
        assert sorted(both) == sorted(faults.possible(faults.form_of(fault)))


@pytest.mark.parametrize(
    ("fault", "architecture"),
    [
        pytest.param(fault, name, marks=() if (fault, name) in QUICK_PAIRS else pytest.mark.slow)
        for fault in ("layer frozen", "gradient cut")
        for name in ARCHITECTURES
    ],
)
def test_only_the_layers_of_the_run_stand_still(faults, fault, architecture):
    found = recorded(faults, fault, architecture)
    still = [name for name, layer in found.layers.items() if layer["unchanged_since"][-1] is not None]
    assert sorted(still) == sorted(found.run["layers"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_layer_with_another_initialisation_is_the_one_of_the_run(faults, architecture):
    large, small = (recorded(faults, f"layer initialised x {times}", architecture) for times in (10, 0.1))
    for name, layer in large.layers.items():
        difference = layer["log_norm"][0] - small.layers[name]["log_norm"][0]
        assert difference == pytest.approx(4.0 if name in large.run["layers"] else 0.0, abs=0.01)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loss_that_is_not_finite_does_not_end_the_record(faults, architecture):
    found = recorded(faults, "NaN gradient", architecture)
    first = found.steps.index(found.run["since"])
    failed = {name for name, layer in found.layers.items() if layer["status"][first] == "failed"}
    assert failed == set(found.run["layers"])
    assert found.steps[-1] == 40
    assert found.losses["non_finite"][first + 1] == found.run["since"] + 1
    assert {len(layer["status"]) for layer in found.layers.values()} == {len(found.steps)}


@pytest.mark.parametrize("architecture", ["dense", "convolutional", "transformer"])
def test_adapters_are_the_layers_of_a_large_scale(faults, architecture):
    pytest.importorskip("peft")
    found = recorded(faults, "LoRA scale x 20", architecture)
    adapters = [name for name, layer in found.layers.items() if layer["role"] == "adapter"]
    assert sorted(adapters) == sorted(found.run["layers"])


def test_what_a_rule_on_losses_needs(faults):
    assert faults.summary([3.0, float("inf"), 2.0, float("nan")], 20) == {
        **{"train_loss": pytest.approx(float("nan"), nan_ok=True), "train_first": 3.0, "train_max": 3.0},
        **{"train_last": pytest.approx(float("nan"), nan_ok=True), "non_finite": 18},
    }


@pytest.mark.parametrize("fault", ["rate x 30", "exploding embedding"])
def test_a_faulty_rate_is_that_of_the_parameters_it_concerns(faults, fault):
    run = faults.run_of(fault, "transformer", "float32", 1.0, 0)
    model = faults.network(faults.Cell("transformer", "standardised", "default", "AdamW", "constant", "none"))
    groups = faults.optimizer_of(model, run).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    own = rates.pop(id(model.embed.weight))
    assert own == pytest.approx(0.03 if fault == "rate x 30" else 1.0)
    assert {round(rate, 9) for rate in rates.values()} == {0.03 if fault == "rate x 30" else 0.001}
