"""A training with TensorFlow out of reach. Imports nothing that loads TensorFlow where it is installed."""

from __future__ import annotations

import importlib.abc
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import ww_callbacks as ww
from ww_callbacks.keras import SpectralMonitor


class RefuseTensorFlow(importlib.abc.MetaPathFinder):
    """Finds no TensorFlow, and remembers that it was asked for."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "tensorflow":
            self.tried.append(name)
            raise ImportError(name)


def fit_without_tensorflow(folder: Path | str) -> list[str]:
    """Train, write events and analyse with TensorFlow out of reach. Return what was tried to import of it."""
    assert "tensorflow" not in sys.modules
    finder = RefuseTensorFlow()
    sys.meta_path.insert(0, finder)
    try:
        model = keras.Sequential([keras.Input((60,)), layers.Dense(50), layers.Dense(1)])
        model.compile(loss="mse")
        monitor = SpectralMonitor(every_n_steps=2, log_dir=folder, figures=False)
        model.fit(np.ones((32, 60)), np.ones((32, 1)), batch_size=8, callbacks=[monitor], verbose=0)
        ww.analyze(model)
        assert monitor.history.steps[-1] == 4
    finally:
        sys.meta_path.remove(finder)
    return finder.tried
