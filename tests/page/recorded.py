"""A small run as its files hold it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from badnames import BAD_NAMES

import ww_callbacks as ww
from ww_callbacks.outputs.tensorboard import TensorBoardOutput
from ww_callbacks.report import Report
from ww_callbacks.report.row import changed
from ww_callbacks.signals.learning_rate import LayerRatios

STEPS = 60
TRAP = 30
NAMES = ("h.0.fc", "h.1.fc", "h.1.fc2", "head")


def accuracy(step):
    """A curve of a user."""
    return {"val_accuracy": 1 - 1 / step}


def curves(step):
    """The curves of a run whose learning rate is lowered at step 200, after which its loss falls."""
    is_low = step >= 200
    return accuracy(step) | {"val_loss": 1.5 if is_low else 2.0, "lr": 0.002 if is_low else 0.02}


def record(log_dir, *, steps=STEPS, recorded=accuracy, **options):
    """Train nothing, move a few weights, and plant a trap in h.1.fc at step ``TRAP``."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((80, 60)).astype("<f4") for name in NAMES} | {"bias": np.zeros(60, "<f4")}
    options = {"log_dir": log_dir, "figures": False, "executor": "sync"} | options
    monitor = ww.Monitor(weights, every_n_steps=10, **options)
    monitor.attach("stop", ww.EarlyStopping(patience=2))
    monitor.attach("learning_rate", LayerRatios())
    with monitor:
        for step in range(1, steps + 1):
            for name in NAMES:
                weights[name] += 0.01 * rng.standard_normal((80, 60)).astype("<f4")
            if step == TRAP:
                weights["h.1.fc"][3, 4] = 50
            if step % 20 == 0:
                for name, value in recorded(step).items():
                    monitor.record(name, value, step)
            monitor.step(step)
    return monitor


def record_names(log_dir):
    """One report of layers whose names act on what shows them."""
    output = TensorBoardOutput(Path(log_dir) / "ww")
    layer = ww.analyze({"fc": np.random.default_rng(0).standard_normal((60, 50))})["fc"]
    output.write(Report.of([changed(layer, name=name, step=1) for name in BAD_NAMES], 1), {}, 1.0)
    output.close()


def save_models(folder):
    """A model and one made from it: a collapsed layer, a new one, one that is gone, and a name that acts."""
    rng = np.random.default_rng(0)
    names = ("h.0", "h.1", "h.2", "h.3", "<script>alert(1)</script>", "gone")
    base = {name: rng.standard_normal((80, 60)) for name in names}
    tuned = {name: array + 0.01 * rng.standard_normal((80, 60)) for name, array in base.items() if name != "gone"}
    tuned["h.1"] *= 0.05
    np.savez(Path(folder) / "base.npz", **base)
    np.savez(Path(folder) / "tuned.npz", **tuned, new=rng.standard_normal((80, 60)))


if __name__ == "__main__":  # for the checks of the page in a browser
    record(Path(sys.argv[1]) / "a", jsonl=True, steps=400, recorded=curves)
    record_names(Path(sys.argv[1]) / "names")
    save_models(Path(sys.argv[1]).parent)
