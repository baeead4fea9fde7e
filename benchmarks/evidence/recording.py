"""Recorded runs: the spectra and losses of one training, one JSON line a run in a gzip file.

Policies are judged from the record afterwards, so that they all see the same run, and a new rule needs no new training.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ww_callbacks as ww
from ww_callbacks import History, LayerReport, Report

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "alpha",
    "alpha_low",
    "alpha_high",
    "alpha_hill",
    "D",
    "num_pl_spikes",
    "reliable",
    "num_traps",
    "trap_pvalue",
    "ww_softrank",
    "log_norm",
    "stable_rank",
)
FIXED = ("kind", "N", "M", "num_evals", "status")
LOSSES = ("train_loss", "val_loss", "val_error", "test_loss", "test_error")


@dataclass
class Recording:
    """One run.

    Attributes:
        run: what was trained: plain values that name the run.
        steps: of the snapshots.
        losses: one list per name in ``LOSSES``.
        layers: name → what does not change, and one list per column.
    """

    run: dict[str, Any]
    steps: list[int] = field(default_factory=list)
    losses: dict[str, list[float | None]] = field(default_factory=lambda: {name: [] for name in LOSSES})
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def note(self, report: Report, step: int, losses: dict[str, float]) -> None:
        """Add what was seen at a snapshot."""
        self.steps.append(step)
        for name in LOSSES:
            self.losses[name].append(_short(losses[name]))
        for layer in report:
            if layer.M is None:
                continue
            row = self.layers.setdefault(layer.name, {name: getattr(layer, name) for name in FIXED})
            for name in COLUMNS:
                row.setdefault(name, []).append(_short(getattr(layer, name)))

    def history(self) -> History:
        """The reports of the run, with the recorded columns."""
        return History(
            Report.of(
                [
                    LayerReport(
                        name=name,
                        step=step,
                        **{key: row[key] for key in FIXED},
                        **{key: row[key][position] for key in COLUMNS},
                    )
                    for name, row in self.layers.items()
                ],
                step,
            )
            for position, step in enumerate(self.steps)
        )


def _short(value: Any) -> Any:
    """Four digits are what these numbers are good for; what is not finite becomes None."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def read(path: Path) -> Iterator[Recording]:
    """The recorded runs of a file, none where there is no file."""
    if path.exists():
        with gzip.open(path, "rt") as file:
            for line in file:
                yield Recording(**json.loads(line))


def record_missing(
    path: Path, runs: Iterable[dict[str, Any]], train: Callable[[dict[str, Any]], Recording]
) -> list[Recording]:
    """Train what has not been recorded yet, and return all recordings of ``runs``, in their order.

    Args:
        path: of the record, which grows by a line per run.
        runs: what names each run.
        train: makes the recording of one.
    """
    done = {json.dumps(recording.run): recording for recording in read(path)}
    path.parent.mkdir(exist_ok=True)
    wanted = list(runs)
    for run in wanted:
        key = json.dumps(run)
        if key not in done:
            done[key] = train(run)
            with path.open("ab") as file:
                file.write(gzip.compress(json.dumps(done[key].__dict__).encode() + b"\n", mtime=0))
    return [done[json.dumps(run)] for run in wanted]


def train_and_record(
    run: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train_loss: Callable[[int], torch.Tensor],
    evaluate: Callable[[], dict[str, float]],
    steps: int,
    every: int,
) -> Recording:
    """Train a model and note, every so many steps, its spectra and its losses.

    Args:
        run: what names the run.
        model: to be trained.
        optimizer: of its parameters.
        train_loss: the loss of the batch of a step.
        evaluate: the other losses and errors.
        steps: optimizer steps in all.
        every: steps between snapshots.
    """
    recording = Recording(run)
    seen: list[float] = []
    for step in range(steps + 1):
        if step % every == 0:
            mean = math.fsum(seen) / len(seen) if seen else math.nan
            seen.clear()
            model.eval()
            with torch.no_grad():
                recording.note(ww.analyze(model), step, {"train_loss": mean} | evaluate())
            model.train()
        if step < steps:
            optimizer.zero_grad()
            loss = train_loss(step)
            loss.backward()
            optimizer.step()
            seen.append(float(loss.detach()))
    return recording
