"""The same weights in Keras and in torch: the same report, and the same verdicts and ratios from it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import ww_callbacks as ww
from ww_callbacks.keras.layers import partners_of
from ww_callbacks.report import History
from ww_callbacks.signals.learning_rate import LayerRatios
from ww_callbacks.signals.stop import EarlyStopping

torch = pytest.importorskip("torch")
STEPS = (0, 100, 200, 300)


def of_keras() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((12, 12, 20)),
            layers.Conv2D(30, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, name="fc1"),
            layers.Dense(60, name="fc2"),
            layers.Dense(55, name="fc3"),
            layers.Dense(4, name="head"),
        ]
    )


def of_torch() -> Any:
    nn = torch.nn
    parts = [("conv", nn.Conv2d(20, 30, 3)), ("norm", nn.BatchNorm2d(30)), ("flatten", nn.Flatten())]
    sizes = [("fc1", 3000, 64), ("fc2", 64, 60), ("fc3", 60, 55), ("head", 55, 4)]
    return nn.Sequential(OrderedDict(parts + [(name, nn.Linear(n, m)) for name, n, m in sizes]))


def move(keras_model: Any, torch_model: Any, step: int) -> None:
    """The same new weights for both, with heavier tails at later steps."""
    rng = np.random.default_rng(step)
    for layer in keras_model.layers:
        if not hasattr(layer, "kernel"):
            continue
        shape = tuple(layer.kernel.shape)
        kernel = rng.standard_t(30 / (1 + step / 50) + 2, shape).astype("float32")
        layer.kernel.assign(kernel)
        stored = kernel.transpose(3, 2, 0, 1) if len(shape) == 4 else kernel.T
        with torch.no_grad():
            torch_model.get_submodule(layer.name).weight.copy_(torch.tensor(stored.copy()))


def test_the_report_of_the_same_weights_is_the_same_and_so_are_verdicts_and_ratios() -> None:
    from ww_callbacks.torch.layers import partners_of as partners_in_torch

    models = of_keras(), of_torch()
    assert partners_of(models[0]) == partners_in_torch(models[1]) == {"norm": "conv"}
    histories = History(), History()
    for step in STEPS:
        move(*models, step)
        reports = [ww.analyze(model) for model in models]
        for seen, wanted in zip(*reports, strict=True):
            same = {key: value for key, value in wanted.to_dict().items() if key not in ("kind", "histogram", "step")}
            for key, value in same.items():
                close = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
                assert getattr(seen, key) == close, (seen.name, key)
        for history, report in zip(histories, reports, strict=True):
            history.append(ww.Report(report.layers, step))
    for make in (
        lambda: LayerRatios(partners={"norm": "conv"}),
        lambda: LayerRatios(mapping="sigmoid", layers=["*"]),
        lambda: EarlyStopping(rules=["plateau", "traps", "overtrained"], patience=2),
    ):
        said = [make().judge(history) for history in histories]
        for judgements in ([each.metrics for each in said], [each.verdict for each in said]):
            assert judgements[0].keys() == judgements[1].keys()
        assert said[0].metrics == pytest.approx(said[1].metrics, rel=1e-6)
        for key, value in said[1].verdict.items():
            numbers = key == "scores" or (isinstance(value, list) and isinstance(value[0], float))
            assert said[0].verdict[key] == (pytest.approx(value, rel=1e-6) if numbers else value)
