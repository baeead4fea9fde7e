"""Recorded runs: the spectra and losses of each training, as one JSON line per run in a gzip file.

Policies are evaluated on the record afterwards, so that all see the same run and a new rule needs no new training.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ww_callbacks import History, LayerReport, Report

RESULTS = Path(__file__).parent / "results"
FIXED = ("kind", "role", "N", "M", "num_evals")


@dataclass
class Recording:
    """A recorded run.

    Attributes:
        run: plain values that identify the run.
        steps: steps of the snapshots.
        losses: one list per loss or other value of the run.
        layers: per layer name, the constant values and one list per column.
    """

    run: dict[str, Any]
    steps: list[int] = field(default_factory=list)
    losses: dict[str, list[float | None]] = field(default_factory=dict)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def note(
        self,
        report: Report,
        step: int,
        losses: Mapping[str, float | None],
        columns: Sequence[str],
        digits: Mapping[str, int] | None = None,
    ) -> None:
        """Add the results of a snapshot.

        Args:
            report: the results.
            step: at which it was taken.
            losses: losses and other values of the run.
            columns: what is kept of the results.
            digits: the significant digits of columns that are not kept with four.
        """
        self.steps.append(step)
        for name, value in losses.items():
            self.losses.setdefault(name, []).append(_short(value))
        for layer in report:
            if layer.M is None:
                continue
            row = self.layers.setdefault(layer.name, {name: getattr(layer, name) for name in FIXED})
            for name in columns:
                row.setdefault(name, []).append(_short(getattr(layer, name), (digits or {}).get(name, 4)))

    def history(self) -> History:
        """The reports of the run, with the recorded columns."""
        return History(
            Report.of(
                [
                    LayerReport(
                        name=name,
                        step=step,
                        **{key: value[position] if isinstance(value, list) else value for key, value in row.items()},
                    )
                    for name, row in self.layers.items()
                ],
                step,
            )
            for position, step in enumerate(self.steps)
        )


def _short(value: Any, digits: int = 4) -> Any:
    """Round to significant digits; non-finite values become None."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def read(path: Path) -> Iterator[Recording]:
    """Return the recorded runs of a file; none if there is no file."""
    if path.exists():
        with gzip.open(path, "rt") as file:
            for line in file:
                yield Recording(**json.loads(line))


def compressed(recordings: Iterable[Recording]) -> bytes:
    """The lines of recordings as they are in a file."""
    lines = (json.dumps(recording.__dict__, separators=(",", ":")) + "\n" for recording in recordings)
    return gzip.compress("".join(lines).encode(), mtime=0)


def write(path: Path, recordings: Iterable[Recording]) -> None:
    """Write recordings to a file, in place of what is there."""
    new = path.with_suffix(".new")
    new.write_bytes(compressed(recordings))
    new.replace(path)


def record_missing(
    path: Path, runs: Iterable[dict[str, Any]], train: Callable[[dict[str, Any]], Recording]
) -> list[Recording]:
    """Train the runs that are missing, and return all recordings of ``runs`` in order.

    Args:
        path: the record, to which one line per run is appended. At the end it is compressed again as a whole.
        runs: the identifying values of each run.
        train: trains and records one run.
    """
    done = {json.dumps(recording.run): recording for recording in read(path)}
    path.parent.mkdir(exist_ok=True)
    wanted, before = list(runs), len(done)
    for run in wanted:
        key = json.dumps(run)
        if key not in done:
            done[key] = train(run)
            with path.open("ab") as file:
                file.write(compressed([done[key]]))
    if len(done) > before:
        write(path, done.values())
    return [done[json.dumps(run)] for run in wanted]
