"""Fills a run of the page from its files: event files, or JSON lines where they hold no reports."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ww_callbacks.outputs.jsonl import FILE_NAME, JsonlFollower
from ww_callbacks.outputs.packed import Packed, pack
from ww_callbacks.outputs.spectra_protos import FINDING, PLUGIN, REPORT, SIGNALS, prefix_in, tag_of, unpack_signals
from ww_callbacks.page.events import EventFollower, Place, event_in, scalar_of, tensor_bytes
from ww_callbacks.page.run import Run
from ww_callbacks.report import SCHEMA, Finding, LayerReport, Report
from ww_callbacks.report.keys import AGGREGATES, PREFIX
from ww_callbacks.signals.stop import VERDICT, is_verdict

OWN_FOLDER = "ww"
"""Where callbacks write their event files, below the folder of the run."""
MAX_OTHERS = 16
"""Further monitors in the files of one run that are shown."""
STILL = 60.0
"""Seconds after which an event file that ends within a record is taken for one that was cut."""

_LAYERS = f"{PREFIX}_layer/"
_EVERY_REPORT = f"{AGGREGATES}lag_steps"


class RunFiles:
    """One run with its files, which may still grow.

    Args:
        folder: of the run.
        name: of the run.
        prefix: of the monitor whose reports are read; None for that of the first report.

    Attributes:
        run: what was read so far.
        others: the prefixes of other monitors that wrote into the same files.
        folder: of the run.
        problem: why something could not be read, as a sentence; empty if all could.
        folders: the folders with event files that belong to the run.
    """

    def __init__(self, folder: Path, name: str, prefix: str | None = None) -> None:
        self.run = Run(name)
        self._given = prefix
        self.problem = ""
        self.folders: tuple[Path, ...] = ()
        self.folder = folder
        self._begin()

    def _begin(self) -> None:
        self._events: dict[Path, EventFollower] = {}
        self._lines: JsonlFollower | None = None
        self._known_findings = 0
        self._has_reports = False
        self._is_old = False
        self._unreadable = ""
        self._monitor = self._given
        self.others: set[str] = set()
        self._own: tuple[str, ...] = _beginnings(PREFIX)

    @property
    def is_ours(self) -> bool:
        """Whether any result of ours was found."""
        return bool(self.run.entries)

    def poll(self) -> None:
        """Read what was added since the last call."""
        self.problem = ""
        try:
            if any(each.is_void for each in self._events.values()) or (self._lines is not None and self._lines.is_void):
                self.run.clear()
                self._begin()
            self._poll_events()
            if not self._has_reports and self._given is None:
                self._poll_lines()
            elif self._lines is not None:  # lines came in before the first report in an event file
                self.run.clear()
                self._begin()
                self._poll_events()
        except (OSError, ValueError) as error:
            self.problem = str(error)
        except ImportError:
            self.problem = "event files are not read: install the package tensorboard"
        self.problem = self.problem or self._unreadable
        if self._is_old and not self.problem:
            self.problem = "written by an earlier version: only the logged layers, without spectra"

    def _poll_events(self) -> None:
        for path in sorted({path for folder in self.folders for path in folder.glob("*tfevents*")}):
            self._events.setdefault(path, EventFollower(path))
        for follower in self._events.values():
            prefix = self._prefix(follower.path.parent)
            for place, data in follower.poll():
                try:
                    self._take(place, event_in(data), prefix)
                except ValueError as error:  # the events after it can be read
                    self._unreadable = self._unreadable or f"{place.path.name}: {error}"
            if follower.rest and time.time() - follower.path.stat().st_mtime > STILL:
                self.problem = f"{follower.path.name} is cut or damaged: what follows is not read"

    def _prefix(self, folder: Path) -> str:
        """What stands before the names of metrics in a folder below that of the run, such as Keras's "validation"."""
        inside = folder.relative_to(self.folder).parts if folder != self.folder else ()
        return "" if inside in ((), (OWN_FOLDER,)) else f"{'/'.join(inside)}: "

    def _take(self, place: Place, event: Any, prefix: str) -> None:
        values = event.summary.value
        if not values:
            return
        tag, step = values[0].tag, int(event.step)
        if (writer := prefix_in(tag)) is not None:
            if not self._is_of_this(writer):
                return
            tag = tag.replace(tag_of(PLUGIN, writer), PLUGIN, 1)
        if tag == REPORT:
            self._has_reports = True
            self.run.add(Packed(tensor_bytes(values[0])), partial(_packed_at, place))
        elif tag == FINDING:
            self.run.add_finding(_finding_in(tensor_bytes(values[0])), step)
        elif tag == SIGNALS:
            signals = unpack_signals(tensor_bytes(values[0]), step)
            if not is_verdict(signals.verdicts.get(VERDICT, {})):
                raise ValueError(f"a verdict that cannot be read at step {step}")
            self.run.add_signals(signals, event.wall_time)
        elif any(value.tag == _EVERY_REPORT for value in values):
            if not (self.folder / FILE_NAME).exists():
                self._is_old = True
                self.run.add(_of_scalars(event), partial(_scalars_at, place))
        else:
            for value in values:
                if not value.tag.startswith(self._own) and (number := scalar_of(value)) is not None:
                    self.run.add_value(f"{prefix}{value.tag}", step, number, event.wall_time)

    def _is_of_this(self, writer: str) -> bool:
        """Whether the monitor whose metrics have this prefix is the one of this run; others are noted."""
        if self._monitor is None:
            self._monitor = writer
        if _beginnings(writer)[0] not in self._own:
            self._own += _beginnings(writer)
        if writer == self._monitor:
            return True
        if len(self.others) < MAX_OTHERS:
            self.others.add(writer)
        return False

    def _poll_lines(self) -> None:
        path = self.folder / FILE_NAME
        if self._lines is None:
            if not path.exists():
                return
            self._lines = JsonlFollower(path)
        reports = self._lines.poll()
        for report, wall_time in zip(reports, self._lines.times, strict=True):
            data = _packed(report, wall_time)
            self.run.add(Packed(data), partial(Packed, data))
        for step, finding in self._lines.findings[self._known_findings :]:
            self.run.add_finding(finding, step)
        self._known_findings = len(self._lines.findings)


def _beginnings(prefix: str) -> tuple[str, ...]:
    """What the tags of a monitor begin with: metrics, texts and pictures."""
    return f"{prefix}/", f"{prefix}_layer/"


def _packed(report: Report, wall_time: float) -> bytes:
    """A report with its summary as metrics."""
    return pack(report, {f"{AGGREGATES}{key}": value for key, value in report.summary().items()}, wall_time)


def _packed_at(place: Place) -> Packed:
    return Packed(tensor_bytes(place.read().summary.value[0]))


def _scalars_at(place: Place) -> Packed:
    return _of_scalars(place.read())


def _finding_in(data: bytes) -> Finding:
    try:
        values = json.loads(data.decode())
    except RecursionError as error:
        raise ValueError("data: not those of a finding, nested too deeply") from error
    if not isinstance(values, Mapping):
        raise ValueError("data: not those of a finding")
    return Finding.from_dict(values)


def _of_scalars(event: Any) -> Packed:
    """A report from the scalars of an event that has no report in it, with the logged layers alone."""
    metrics: dict[str, float] = {}
    layers: dict[str, dict[str, Any]] = {}
    for value in event.summary.value:
        number = scalar_of(value)
        if number is None or not math.isfinite(number):
            continue
        if value.tag.startswith(AGGREGATES):
            metrics[value.tag] = number
        elif value.tag.startswith(_LAYERS):
            metric, _, tag = value.tag.removeprefix(_LAYERS).partition("/")
            if metric in SCHEMA and SCHEMA[metric].kind in ("number", "count"):
                layers.setdefault(tag, {})[metric] = number
    step = int(event.step)
    found = (
        LayerReport(name=tag.partition(".")[2] or tag, kind="", step=step, **layers[tag]) for tag in sorted(layers)
    )
    return Packed(pack(Report(tuple(found), step), metrics, float(event.wall_time)))
