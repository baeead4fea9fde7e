"""What is the same for every framework has the same name and default everywhere."""

from __future__ import annotations

import importlib
import inspect
import os

import pytest

import ww_callbacks as ww
from ww_callbacks.analysis import Settings
from ww_callbacks.monitor.options import Options
from ww_callbacks.signals.learning_rate import LayerRatios, LayerwiseOptions, RatioOptions
from ww_callbacks.signals.stop import StopRules

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
    ("front_end", "name", "declared"),
    [
        ("lightning", "SpectralEarlyStopping", StopRules),
        ("keras", "SpectralEarlyStopping", StopRules),
        ("lightning", "LayerwiseLearningRate", LayerwiseOptions),
        ("keras", "LayerwiseLearningRate", LayerwiseOptions),
        ("torch", "layerwise", RatioOptions),
    ],
)
def test_other_front_ends(front_end, name, declared):
    ours, wanted = arguments(getattr(load(front_end), name)), arguments(declared)
    assert {name: ours[name] for name in wanted} == wanted


def test_ramp_steps_of_a_loop():
    assert arguments(load("torch").layerwise)["ramp_steps"] == arguments(LayerwiseOptions)["ramp_steps"]


@pytest.mark.parametrize("front_end", ["lightning", "keras"])
def test_the_same_words_say_the_same_in_lightning_and_keras(front_end):
    asked = {
        "mapping": "sigmoid",
        "low": 0.25,
        "high": 4.0,
        "blocks": True,
        "shrink": False,
        "layers": ["a.*"],
        "until": 7,
    }
    signal = load(front_end).LayerwiseLearningRate(**asked)._signal
    assert signal == LayerRatios(**asked)


@pytest.mark.parametrize("declared", [Options, StopRules, RatioOptions, LayerwiseOptions, LayerRatios])
def test_every_argument_is_documented_where_it_is_declared(declared):
    for name in declared.__annotations__:
        assert f"\n    {name}: " in inspect.getdoc(declared)


@pytest.mark.parametrize("function", [ww.analyze, ww.compare, ww.follow, Options])
def test_the_arguments_of_the_analysis_have_the_same_defaults_everywhere(function):
    ours, wanted = arguments(function), arguments(Settings)
    shared = {"conv_scale", "randomize", "precision", "interval", "fit", "seed", "min_evals"}
    assert shared <= ours.keys()
    assert {name: ours[name] for name in ours.keys() & wanted.keys()}.items() <= wanted.items()
