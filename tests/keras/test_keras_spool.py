"""Snapshots of a Keras model in files: kernels keep their axes and the names of their classes."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.keras import SpectralMonitor

pytestmark = pytest.mark.timeout(120)


def test_the_last_snapshot_is_the_trained_model(tmp_path: Path) -> None:
    images = keras.Input((12, 12, 3))
    hidden = keras.layers.DepthwiseConv2D(3)(keras.layers.Conv2D(60, 3)(images))
    model = keras.Model(images, keras.layers.Dense(55)(keras.layers.GlobalAveragePooling2D()(hidden)))
    model.compile(loss="mse")
    monitor = SpectralMonitor(every_n_steps=2, spool=str(tmp_path), deterministic=True)
    model.fit(np.ones((16, 12, 12, 3)), np.ones((16, 55)), batch_size=4, callbacks=[monitor], verbose=0)
    *_, last = sorted(tmp_path.iterdir())
    assert last.name == "step-000000004.safetensors"
    found, trained = ww.analyze(last, randomize=False), ww.analyze(model, randomize=False)
    assert found.to_dicts() == trained.to_dicts()
    assert {layer.kind for layer in found} >= {"Conv2D", "DepthwiseConv2D", "Dense"}
