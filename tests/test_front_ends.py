"""What is the same for every framework has the same name and default everywhere."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os

import pytest

import ww_callbacks as ww
from ww_callbacks.signals.learning_rate import LayerRatios

os.environ.setdefault("KERAS_BACKEND", "torch")


def arguments(function):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def load(name):
    pytest.importorskip({"lightning": "pytorch_lightning", "huggingface": "transformers"}.get(name, name))
    return importlib.import_module(f"ww_callbacks.{name}")


@pytest.mark.parametrize(
    ("front_end", "name"),
    [
        ("lightning", "SpectralMonitor"),
        ("keras", "SpectralMonitor"),
        ("huggingface", "SpectralMonitor"),
        ("torch", "DistributedMonitor"),
    ],
)
def test_monitors(front_end, name):
    ours, wanted = arguments(getattr(load(front_end), name)), arguments(ww.Monitor)
    own = {"every_n_steps"} if "every_n_epochs" in ours else set()  # None until the schedule is known
    assert {name: ours[name] for name in wanted} == wanted | dict.fromkeys(own)


@pytest.mark.parametrize(
    ("front_end", "name"),
    [("lightning", "LayerwiseLearningRate"), ("keras", "LayerwiseLearningRate"), ("torch", "layerwise")],
)
def test_learning_rates(front_end, name):
    defaults = {field.name: field.default for field in dataclasses.fields(LayerRatios) if field.name != "partners"}
    ours = arguments(getattr(load(front_end), name))
    assert {name: ours[name] for name in defaults} == defaults
    assert ours["ramp_steps"] == 50
    assert ours.get("apply", False) is False


def test_the_same_words_say_the_same_in_lightning_and_keras():
    asked = {"mapping": "sigmoid", "low": 0.25, "high": 4.0, "blocks": True, "layers": ["a.*"], "until": 7}
    judges = [load(name).LayerwiseLearningRate(**asked)._signal for name in ("lightning", "keras")]
    assert judges == [LayerRatios(**asked)] * 2
