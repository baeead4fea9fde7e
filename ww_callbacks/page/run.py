"""What the page knows of one run: its reports, findings, verdicts and curves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ww_callbacks.outputs.output import Signals
from ww_callbacks.outputs.packed import Packed
from ww_callbacks.page.columns import RATIO_OF, page_columns
from ww_callbacks.page.curves import Curve, in_order
from ww_callbacks.page.grid import Floats, Grid
from ww_callbacks.printable import shown_name, shown_text
from ww_callbacks.report import Finding, LayerReport, in_words
from ww_callbacks.report.keys import AGGREGATES
from ww_callbacks.signals.mappings import block_of
from ww_callbacks.signals.standing import Standing

ALWAYS = ("alpha", "reliable", "num_traps")
"""Columns that are kept for each run; the others are read when one of them is asked for."""

Load = Callable[[], Packed]
"""Reads a report again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One report.

    Attributes:
        step: of the report; the number of the report if it has none.
        wall_time: in seconds since the epoch.
        metrics: the ``ww/…`` metrics.
        load: reads it.
        has_step: whether the report has a step; that of a finished model has none.
    """

    step: int
    wall_time: float
    metrics: Mapping[str, float]
    load: Load
    has_step: bool

    @property
    def shown_step(self) -> int | None:
        """The step for people."""
        return self.step if self.has_step else None


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where the values of a report belong.

    Attributes:
        rows: index among the layers of the run, of each layer whose numbers the report has.
        gone: indices of the layers that are not in the report.
    """

    rows: npt.NDArray[np.int_]
    gone: Sequence[int]


class Run:
    """One run, report by report.

    The values of three columns are kept. The first request for another column reads all of them, which then stay in
    memory until :meth:`forget`.

    Args:
        name: of the run.

    Attributes:
        version: number that changes when earlier reports are replaced, and when later ones have more layers.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = 0
        self._made = time.time_ns()
        self.clear()

    @property
    def edition(self) -> str:
        """What the page knows the reports by: no two runs, and no two versions of one, have the same."""
        return f"{self._made:x}.{self.version}"

    def clear(self) -> None:
        """Forget everything, because the files were replaced."""
        self.version += 1
        self.entries: list[Entry] = []
        self._places: dict[str, int] = {}
        self._layers: list[dict[str, Any]] = []
        self._grids = {name: Grid() for name in ALWAYS}
        self._sources = Grid()
        self._is_wide = False
        self._columns: set[str] = set()
        self._standing = Standing()
        self._verdicts: list[tuple[int, Mapping[str, Mapping[str, Any]]]] = []
        self._curves: dict[str, Curve] = {}
        self._recorded: dict[str, Curve] = {}

    def forget(self) -> None:
        """Drop the columns that can be read again."""
        self._grids = {name: self._grids[name] for name in ALWAYS}
        self._is_wide = False

    @property
    def is_wide(self) -> bool:
        """Whether all columns are in memory."""
        return self._is_wide

    def add(self, packed: Packed, load: Load) -> None:
        """Add a report. If the steps go back, because the run was restarted, it replaces the later ones.

        Args:
            packed: the report.
            load: reads it again.
        """
        step = len(self.entries) if packed.step is None else packed.step
        if self.entries and step <= self.entries[-1].step:
            self._cut(sum(entry.step < step for entry in self.entries), step)
        self.entries.append(Entry(step, packed.wall_time, packed.metrics, load, packed.step is not None))
        placed = self._placed(packed, self._know(packed))
        self._columns |= page_columns().keys() & set(packed.columns)
        if self._is_wide:
            for name in self._columns - self._grids.keys():
                self._grids[name] = self._late(len(self.entries) - 1)
        for name, grid in self._grids.items():
            self._append(grid, name, packed, placed)
        source = np.full(len(placed.rows), len(self.entries) - 1.0)
        self._sources.append(placed.rows, source, len(self._layers))

    def add_finding(self, finding: Finding, step: int) -> None:
        """Add a finding that is raised or withdrawn at a step."""
        self._standing.add(finding, step)

    def add_signals(self, signals: Signals, wall_time: float) -> None:
        """Add what is known beside a report: verdicts, and recorded metrics."""
        while self._verdicts and self._verdicts[-1][0] >= signals.step:
            self._verdicts.pop()
        self._verdicts.append((signals.step, signals.verdicts))
        for name, values in signals.recorded.items():
            curve = self._recorded.setdefault(name, Curve(name))
            for step, value in values:
                curve.add(signals.step if step is None else step, value, wall_time)

    def add_value(self, name: str, step: float, value: float, wall_time: float) -> None:
        """Add a value of one of the user's metrics."""
        self._curves.setdefault(name, Curve(name)).add(step, value, wall_time)

    def column(self, name: str, start: int = 0) -> Floats:
        """The values of a column, reports × layers, NaN where there is none.

        Args:
            name: of a column of the page.
            start: index of the first report.

        Raises:
            KeyError: there is no such column.
            OSError: a file cannot be read.
            ValueError: a file holds something else by now.
        """
        if name not in page_columns():
            raise KeyError(name)
        if name in RATIO_OF.values():
            return self._ratios(name)[start:]
        if name not in self._grids and not self._is_wide:
            self._widen()
        grid = self._grids.get(name)
        rows = np.full((len(self.entries), 0), np.nan, np.float32)[start:] if grid is None else grid.rows(start)
        missing = len(self._layers) - rows.shape[1]
        return np.pad(rows, ((0, 0), (0, max(missing, 0))), constant_values=np.nan)[:, : len(self._layers)]

    def cell(self, layer: int, report: int) -> dict[str, Any]:
        """One layer at one report, as the page gets it.

        Args:
            layer: its index.
            report: index of the report.

        Raises:
            IndexError: there is no such layer or report.
            OSError: a file cannot be read.
            ValueError: a file holds something else by now.
        """
        if not (0 <= layer < len(self._layers) and 0 <= report < len(self.entries)):
            raise IndexError(f"there is no layer {layer} or no report {report}")
        source = self._sources.rows()[report, layer] if layer < self._sources.rows().shape[1] else np.nan
        return self.cells(report if np.isnan(source) else int(source), [layer])[0]

    def cells(self, report: int, layers: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Layers at one report; those that were not analysed at its step have texts only.

        Args:
            report: index of the report.
            layers: indices; None for all.
        """
        packed = self.entries[report].load()
        indices = {name: index for index, name in enumerate(packed.names)}
        wanted = range(len(self._layers)) if layers is None else layers
        return [_cell(packed, indices.get(self._layers[index]["name"]), self.entries[report].step) for index in wanted]

    def answer(self, start: int = 0) -> dict[str, Any]:
        """Everything but the columns and the cells, as the page gets it.

        Args:
            start: index of the first report that the page does not have.
        """
        start = min(start, len(self.entries))
        entries = self.entries[start:]
        keys = sorted({key for entry in self.entries for key in entry.metrics if not _is_monitors(key)})
        steps = [entry.step for entry in self.entries]
        times = [entry.wall_time for entry in self.entries]
        latest = self.entries[-1].metrics if self.entries else {}
        findings = self._standing.findings
        return {
            "name": shown_name(self.name),
            "version": self.edition,
            "from": start,
            "steps": [entry.shown_step for entry in entries],
            "times": times[start:],
            "summary": {
                key.removeprefix(AGGREGATES): [_plain(entry.metrics.get(key)) for entry in entries] for key in keys
            },
            "lag": [int(entry.metrics.get(f"{AGGREGATES}lag_steps", 0)) for entry in entries],
            "skipped": int(latest.get(f"{AGGREGATES}skipped", 0)),
            "over_budget": int(latest.get(f"{AGGREGATES}over_budget", 0)),
            "every": _every(steps),
            "layers": self._layers,
            "columns": [column.to_dict() for name, column in page_columns().items() if name in self._shown_columns()],
            "findings": [self._finding(finding) for finding in findings],
            "rules": self._rules(start),
            "stop": self._stop(),
            "curves": [curve.to_dict(steps, times) for curve in in_order(self._all_curves())],
            "cells": "all",
            "problem": "",
        }

    def info(self) -> dict[str, Any]:
        """The entry in the list of runs."""
        standing = [finding for finding in self._standing.findings if finding.until is None]
        return {
            "name": shown_name(self.name),
            "reports": len(self.entries),
            "step": self.entries[-1].shown_step if self.entries else None,
            "updated": self.entries[-1].wall_time if self.entries else 0.0,
            "alarms": sum(finding.is_alarm for finding in standing),
            "notices": sum(not finding.is_alarm for finding in standing),
            "problem": "",
        }

    def _all_curves(self) -> list[Curve]:
        """The curves of the event files, and of the recorded metrics those that are not among them."""
        names = {name.rpartition(" ")[2] for name in self._curves}
        return [*self._curves.values(), *(curve for name, curve in self._recorded.items() if name not in names)]

    def _shown_columns(self) -> set[str]:
        ratios = {RATIO_OF[name] for _, verdicts in self._verdicts[-1:] for name in verdicts if name in RATIO_OF}
        return self._columns | ratios

    def _cut(self, kept: int, step: int) -> None:
        self.version += 1
        del self.entries[kept:]
        for grid in (*self._grids.values(), self._sources):
            grid.cut(kept)
        self._standing.cut(step)

    def _know(self, packed: Packed) -> list[int]:
        """The place of each layer of a report among all layers of the run."""
        known = len(self._layers)
        for index, name in enumerate(packed.names):
            if name not in self._places:
                self._places[name] = len(self._layers)
                self._layers.append(_layer(name, packed.values(index)))
            elif self._layers[self._places[name]]["note"] and packed.texts("status")[index] == "ok":
                self._layers[self._places[name]] = _layer(name, packed.values(index))
        if 0 < known < len(self._layers):  # each report of a column has one more value
            self.version += 1
        return [self._places[name] for name in packed.names]

    def _late(self, reports: int) -> Grid:
        """The grid of a column that has no values in the first reports."""
        grid = Grid()
        for _ in range(reports):
            grid.append([], [], len(self._layers))
        return grid

    def _placed(self, packed: Packed, places: Sequence[int]) -> _Placed:
        gone = set(range(len(self._layers))) - set(places)
        return _Placed(np.array(places, int)[np.array(packed.rows, int)], sorted(gone))

    def _append(self, grid: Grid, name: str, packed: Packed, placed: _Placed) -> None:
        column = page_columns()[name]
        if column.kind == "words":
            texts, codes = packed.texts(name), {word: code for code, word in enumerate(column.words)}
            values = np.array([codes.get(texts[row] or "", np.nan) for row in packed.rows])
        else:
            values = packed.numbers(name)
        grid.append(placed.rows, values, len(self._layers))
        if placed.gone:
            grid.clear(placed.gone)

    def _widen(self) -> None:
        """Read all columns."""
        grids = {name: Grid() for name in self._columns - set(ALWAYS)}
        for entry in self.entries:
            packed = entry.load()
            placed = self._placed(packed, [self._places[name] for name in packed.names])
            for name, grid in grids.items():
                self._append(grid, name, packed, placed)
        self._grids |= grids
        self._is_wide = True

    def _ratios(self, name: str) -> Floats:
        values = np.full((len(self.entries), len(self._layers)), np.nan, np.float32)
        verdict = next(each for each, column in RATIO_OF.items() if column == name)
        by_step = {step: verdicts.get(verdict, {}).get("ratios", ()) for step, verdicts in self._verdicts}
        for row, entry in enumerate(self.entries):
            ratios = by_step.get(entry.step, ())
            values[row, : len(ratios)] = ratios[: len(self._layers)]
        return values

    def _finding(self, finding: Finding) -> dict[str, Any]:
        return {
            "kind": finding.kind,
            "title": finding.kind.replace("_", " "),
            "text": shown_text(finding.text, 2000),
            "action": finding.action,
            "alarm": finding.is_alarm,
            "confidence": finding.confidence,
            "since": finding.since,
            "step": finding.step,
            "until": finding.until,
            "layers": [self._places[name] for name in finding.layers if name in self._places],
        }

    def _rules(self, start: int) -> list[dict[str, Any]]:
        stops = {step: verdicts.get("stop", {}) for step, verdicts in self._verdicts}
        latest = self._verdicts[-1][1].get("stop", {}) if self._verdicts else {}
        texts = latest.get("texts", {})
        return [
            {
                "name": rule,
                "label": rule,
                "text": shown_text(str(texts.get(rule, ""))),
                "score": [
                    _plain(stops.get(entry.step, {}).get("scores", {}).get(rule)) for entry in self.entries[start:]
                ],
            }
            for rule in latest.get("scores", {})
        ]

    def _stop(self) -> str:
        stop = self._verdicts[-1][1].get("stop", {}) if self._verdicts else {}
        return shown_text(f"{stop.get('reason', '')} (at step {stop.get('step')})") if stop.get("stop") else ""


def _cell(packed: Packed, index: int | None, step: int) -> dict[str, Any]:
    if index is None:
        return {"step": step, "values": {}, "words": "not in this report", "histogram": None, "trap_places": None}
    values = packed.values(index)
    histogram, places = packed.histogram(index), packed.places(index)
    return {
        "step": values.get("step", step),
        "values": {name: _plain(value) for name, value in values.items()},
        "words": shown_text(in_words(LayerReport(**{"name": "", "kind": "", "trap_places": places, **values}))),
        "histogram": None
        if histogram is None
        else {
            "low": histogram.low,
            "high": histogram.high,
            "counts": histogram.counts,
            "rand_counts": histogram.rand_counts,
        },
        "trap_places": places,
    }


def _layer(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    sizes = [values[side] for side in ("N", "M") if side in values]
    shape = " × ".join(map(str, sizes)) + (f", {values['rf']} positions" if values.get("rf", 1) > 1 else "")
    return {
        "name": name,
        "shown": shown_name(name),
        "kind": shown_name(values.get("kind", "")),
        "role": values.get("role", "other"),
        "shape": shape,
        "block": shown_name(block_of(name)),
        "note": "" if values.get("status") == "ok" else shown_text(values.get("reason", "")),
    }


def _is_monitors(key: str) -> bool:
    return key.removeprefix(AGGREGATES) in ("lag_steps", "skipped", "over_budget")


def _every(steps: Iterable[int]) -> int | None:
    """The usual distance of two reports."""
    gaps = np.diff(np.array(list(steps), np.int64))
    return int(np.median(gaps)) if len(gaps) else None


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
