"""What users of Keras expect of a callback: names in the logs, verbosity, an unbroken progress bar."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from ww_callbacks.keras import LayerwiseLearningRate, SpectralEarlyStopping, SpectralMonitor, layerwise

pytestmark = pytest.mark.timeout(300)

BATCHES = 6


class Trap(keras.callbacks.Callback):
    """One very large weight in the first layer after the first batch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            kernel = self.model.get_layer("first").kernel
            values = np.array(kernel)
            values[3, 4] = 5.0
            kernel.assign(values)


def fit(*callbacks: Any, verbose: int = 0, epochs: int = 1) -> Any:
    model = keras.Sequential(
        [
            keras.Input((60,)),
            layers.Dense(60, name="first"),
            layers.Dense(60, name="second"),
            layers.Dense(4, name="head"),
        ]
    )
    model.compile(layerwise(keras.optimizers.SGD(1e-3)), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8 * BATCHES, 60)), rng.standard_normal((8 * BATCHES, 4))
    return model.fit(x, y, batch_size=8, epochs=epochs, verbose=verbose, callbacks=list(callbacks))


def watching(**options: Any) -> SpectralMonitor:
    return SpectralMonitor(**{"every_n_steps": 1, "executor": "sync", "figures": False} | options)


def test_two_monitors_are_told_apart_by_their_prefixes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = watching(layers=["first"], prefix="first", prog_bar=True)
    second = watching(layers=["second"], prefix="second")
    stopping = SpectralEarlyStopping(rules=["traps"], source=second, verbose=0)
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="second/alpha", mode="min", patience=9)
    stock = keras.callbacks.EarlyStopping(monitor="first/alpha", mode="min", patience=9)
    table = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(first, second, stopping, plateau, stock, table, verbose=1, epochs=2)
    for monitor in (first, second):
        alpha = history.history[f"{monitor.prefix}/alpha"]
        assert alpha[-1] == pytest.approx(monitor.history[-1].summary()["alpha"])
    assert not [key for key in history.history if key.startswith("ww")]
    assert plateau.best == pytest.approx(min(history.history["second/alpha"]))
    assert stock.best == pytest.approx(min(history.history["first/alpha"]))
    with (tmp_path / "log.csv").open() as file:
        assert {"first/alpha", "second/alpha", "second/stop/traps"} <= {*next(csv.reader(file))}
    shown = capsys.readouterr().out
    assert "first/alpha:" in shown
    assert shown.count("first/") == shown.count("first/alpha:")
    assert "second/" not in shown
    assert "did not end" not in shown  # verbose=0


@pytest.mark.parametrize(("verbose", "of_fit"), [(1, 1), (0, 1), (1, 0)])
def test_messages_stand_in_their_own_lines_and_go_to_the_log_if_nothing_is_printed(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, verbose: int, of_fit: int
) -> None:
    stopping = SpectralEarlyStopping(rules=["traps"], patience=2, verbose=verbose)
    rates = LayerwiseLearningRate(apply=True, layers=["first", "second"], verbose=verbose)
    with caplog.at_level(logging.INFO, "ww_callbacks"):
        fit(watching(), stopping, rates, Trap(), verbose=of_fit, epochs=3)
    assert stopping.stopped_reason.startswith("traps at step")
    wanted = ["SpectralEarlyStopping ends the training. traps", "learning-rate ratios: 2 layers take part"]
    printed, logged = capsys.readouterr().out, "\n".join(caplog.messages)
    for message in wanted:
        assert (message in printed) == bool(verbose and of_fit)
        assert (message in logged) != (message in printed)
        if message in printed:
            assert f"\n{message}" in printed


@pytest.mark.parametrize("verbose", [2, "auto", None])
def test_verbose_is_0_or_1(verbose: Any) -> None:
    with pytest.raises(ValueError, match="verbose: expected one of 0, 1, got"):
        SpectralEarlyStopping(verbose=verbose)
