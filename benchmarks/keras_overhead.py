"""Share of a Keras training that is spent in the monitor's hooks, on the backend selected by KERAS_BACKEND.

    for backend in torch jax tensorflow; do KERAS_BACKEND=$backend python benchmarks/keras_overhead.py; done

Trains a convolutional network on 28 × 28 images and prints one row of a table: backend, weights, time of a step, the
share of the wall time spent in the hooks during training (a snapshot every 200 steps), their median and longest time
per batch, and the time of the last snapshot including the wait for pending results. The first epoch, in which backends
compile, is not counted. On JAX, the wait for steps that were dispatched before a snapshot is not counted either.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers

from ww_callbacks.keras import SpectralMonitor


class Timed(SpectralMonitor):
    """Records the time of each hook."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.batches: list[float] = []
        self.epochs: list[float] = []
        self.begun = 0.0
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.begun = time.perf_counter()
            self.batches, self.epochs = [], []
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch % self.every_n_steps in (0, 1):
            _wait_for_device(self._model)
        start = time.perf_counter()
        super().on_train_batch_begin(batch, logs)
        self.batches.append(time.perf_counter() - start)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        start = time.perf_counter()
        super().on_epoch_end(epoch, logs)
        self.epochs.append(time.perf_counter() - start)
        self.ended = time.perf_counter()

    def on_train_end(self, logs: Any = None) -> None:
        start = time.perf_counter()
        super().on_train_end(logs)
        self.end = time.perf_counter() - start


def _wait_for_device(model: Any) -> None:
    """On JAX, wait for the dispatched steps, so that this time of the device is not attributed to the monitor."""
    if keras.backend.backend() == "jax" and getattr(model, "_jax_state", None):
        import jax

        jax.block_until_ready([list(values) for values in model._jax_state.values()])


def network() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dense(256, activation="relu"),
            layers.Dense(10),
        ]
    )
    model.compile(keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="steps in each of the two epochs")
    parser.add_argument("--every", type=int, default=200)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.standard_normal((arguments.steps * 32, 28, 28, 1)).astype("float32")
    labels = rng.integers(0, 10, len(images))
    monitor, model = Timed(every_n_steps=arguments.every), network()
    model.fit(images, labels, batch_size=32, epochs=2, verbose=0, callbacks=[monitor])
    wall = monitor.ended - monitor.begun
    inside = sum(monitor.batches) + sum(monitor.epochs)
    steps = len(monitor.batches)
    plain = 1e6 * float(np.median(monitor.batches))
    print(
        f"| {keras.backend.backend()} | {model.count_params():,} | {1000 * wall / steps:.1f} ms | "
        f"{100 * inside / wall:.2f} % | {plain:.0f} µs | {1000 * max(monitor.batches):.1f} ms | {monitor.end:.1f} s |"
    )


if __name__ == "__main__":
    main()
