"""Defines the runs for the experiments on early stopping, and records those that are missing.

Takes about 25 minutes on one core for all of them. It can be interrupted and restarted at any time:

    OMP_NUM_THREADS=1 python benchmarks/evidence/record.py [healthy] [digits] [text]

The rules and their settings were chosen on the digits of ``CHOOSING_SEEDS`` and the healthy runs of
``HEALTHY_CHOOSING_SEEDS``. The other seeds and the text were recorded afterwards.
"""

from __future__ import annotations

import sys
from typing import Any

import digits
import text
import torch
from recording import RESULTS, Recording, record_missing

SEEDS, CHOOSING_SEEDS = range(8), range(5)
TEXT_SEEDS = range(5)
WIDTHS = ([64, 64], [128, 64], [256, 128])
HEALTHY_SEEDS, HEALTHY_CHOOSING_SEEDS = range(20), range(15)
HEALTHY_OPTIMIZERS = ("SGD 0.03", "momentum 0.005", "Adam 2e-4", "AdamW 2e-4")

DIGITS_CASES: dict[str, dict[str, Any]] = {
    "clean": {},
    "30 % wrong labels": {"wrong": 0.3},
    "too few data": {"size": 150},
    "far too large rate": {"optimizer": "Adam 3e-2"},
    "weight decay": {"optimizer": "SGD 0.1, decay 3e-3"},
}
TEXT_CASES: dict[str, dict[str, Any]] = {
    "clean": {},
    "30 % wrong labels": {"wrong": 0.3, "size": 8_000},
    "too few data": {"size": 2_000},
    "far too large rate": {"rate": 0.05},
    "weight decay": {"decay": 1.0},
}


def healthy_runs() -> list[dict[str, Any]]:
    """Short healthy runs: three widths, four optimizers."""
    common = {"batch": 64, "size": digits.TRAIN, "wrong": 0.0, "steps": 800, "every": 20}
    return [
        {"widths": widths, "optimizer": optimizer, "seed": seed, **common}
        for seed in HEALTHY_SEEDS
        for widths in WIDTHS
        for optimizer in HEALTHY_OPTIMIZERS
    ]


def digits_runs() -> list[dict[str, Any]]:
    """A network of 784-256-128-10 in each case."""
    common = {"widths": [256, 128], "optimizer": "Adam 1e-3", "batch": 64, "size": digits.TRAIN, "wrong": 0.0}
    return [
        {"case": case, "seed": seed, **common, "steps": 1600, "every": 50, **changes}
        for seed in SEEDS
        for case, changes in DIGITS_CASES.items()
    ]


def text_runs() -> list[dict[str, Any]]:
    """A character transformer in each case."""
    common = {"rate": 3e-3, "decay": 0.01, "size": text.TRAIN, "wrong": 0.0, "batch": 8}
    return [
        {"case": case, "seed": seed, **common, "steps": 320, "every": 16, **changes}
        for seed in TEXT_SEEDS
        for case, changes in TEXT_CASES.items()
    ]


RUNS = {
    "healthy": (healthy_runs, digits.train),
    "digits": (digits_runs, digits.train),
    "text": (text_runs, text.train),
}


def recordings(name: str) -> list[Recording]:
    """Return all runs of one kind, and record those that are missing.

    Args:
        name: "healthy", "digits" or "text".
    """
    torch.set_num_threads(1)
    runs, train = RUNS[name]
    return record_missing(RESULTS / "recorded" / f"{name}.jsonl.gz", runs(), train)


if __name__ == "__main__":
    for name in sys.argv[1:] or RUNS:
        print(name, len(recordings(name)), "runs are recorded")
