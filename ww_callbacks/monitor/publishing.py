"""Publishing: a finished report goes into the history, before the signals, to the outputs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ww_callbacks.checks import warn
from ww_callbacks.outputs.jsonl import FILE_NAME, JsonlOutput
from ww_callbacks.outputs.metrics import aggregate_metrics, layer_metrics, spread
from ww_callbacks.outputs.panel_schedule import Drawing, Gallery
from ww_callbacks.outputs.panels import MAX_CHOSEN, Panels
from ww_callbacks.outputs.tensorboard import TensorBoardOutput
from ww_callbacks.patterns import matching
from ww_callbacks.report import History, Report
from ww_callbacks.report.history import MOST_ENTRIES
from ww_callbacks.report.keys import AGGREGATES, is_of_layers
from ww_callbacks.signals.signal import Signal

if TYPE_CHECKING:
    from ww_callbacks.monitor.options import Options

NUM_DRAWN = 3
"""Layers whose spectrum is drawn where nobody chose, spread over the depth."""


@runtime_checkable
class Showing(Protocol):
    """An output that shows more than numbers."""

    def show(self, panels: Panels) -> None:
        """Show pictures, texts and histograms; called in the order of steps, from the training thread."""


class Output(Protocol):
    """A place where results go."""

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Show one report; called in the order of steps, from the training thread."""

    def close(self) -> None:
        """No more reports follow."""


@dataclass(frozen=True, slots=True)
class Published:
    """What is known at a snapshot step, as plain values; it changes at snapshot steps and at the end only.

    Attributes:
        metrics: the latest ``ww/…`` metrics.
        verdicts: what each attached signal says, by the name it was attached under.
        reports: how many reports had come in.
        step: finished optimizer steps when this became known; None before the first.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    verdicts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reports: int = 0
    step: int | None = None


class Publisher:
    """History, signals and outputs of one monitor.

    Args:
        options: of the monitor.
        outputs: places for results.
        hand_over: has something drawn elsewhere.
    """

    def __init__(self, options: Options, outputs: Iterable[Output], hand_over: Drawing = lambda _: None) -> None:
        self._options = options
        self._hand_over = hand_over
        self._gallery: Gallery | None = None
        self._outputs = list(outputs)
        self._signals: dict[str, Signal] = {}
        self._logged_layers: frozenset[str] | None = None
        self._latest = self._shown = Published()
        self.history = History(most_entries=MOST_ENTRIES)
        self.published = Published()

    def attach(self, name: str, signal: Signal) -> None:
        """Let a signal judge the history after each report.

        Raises:
            ValueError: another signal has that name.
        """
        if name in self._signals:
            raise ValueError(f"name: {name!r} is attached already, choose another name")
        self._signals[name] = signal

    def is_attached(self, name: str) -> bool:
        """Whether a signal has that name."""
        return name in self._signals

    def publish(self, report: Report, *, lag_steps: int, skipped: int, wall_time: float) -> None:
        """Show a report everywhere; reports come in the order of their steps.

        Args:
            report: one snapshot's results.
            lag_steps: steps between the snapshot and now.
            skipped: snapshots skipped when it was taken.
            wall_time: when it was taken, in seconds since the epoch.
        """
        report = self.history.append(report)
        if self._logged_layers is None:
            self._logged_layers = self._choose_logged(report)
        judgements = {name: signal.judge(self.history) for name, signal in self._signals.items()}
        judged = {key: value for judgement in judgements.values() for key, value in judgement.metrics.items()}
        metrics = aggregate_metrics(report, lag_steps=lag_steps, skipped=skipped)
        metrics |= {key: value for key, value in judged.items() if key.startswith(AGGREGATES)}
        verdicts = {name: judgement.verdict for name, judgement in judgements.items()}
        self._latest = Published(metrics, verdicts, self.history.seen)
        shown = {key: value for key, value in judged.items() if is_of_layers(key, self._logged_layers)}
        everything = metrics | layer_metrics(report, self._logged_layers) | shown
        for output in list(self._outputs):
            self._call_output(output, partial(output.write, report, everything, wall_time))
        if self._gallery is None and self._options.figures is not False and self._showing():
            self._gallery = Gallery(self._logged_layers, self._choose_drawn(report))
        if self._gallery is not None:
            self._show(self._gallery.add(report, wall_time, self._hand_over))
        if self._options.on_result is not None:
            self._options.on_result(report)

    def update(self, step: int | None) -> None:
        """``published`` changes at snapshot steps and at the end only, so that decisions depend on the step alone.

        Args:
            step: finished optimizer steps.
        """
        if self._latest is not self._shown:
            self._shown = self._latest
            self.published = replace(self._latest, step=step)

    def finish(self, deadline: float) -> None:
        """Show the pictures of the last report.

        Args:
            deadline: of ``time.monotonic()``.
        """
        if self._gallery is not None:
            self._show(self._gallery.finish(deadline, self._hand_over))

    def restore(self, history: History, published: Published) -> None:
        """Go on from what another one knew."""
        self.history = history
        self.published = self._latest = self._shown = published

    def close(self) -> None:
        """Close the outputs."""
        outputs, self._outputs = self._outputs, []
        for output in outputs:
            self._call_output(output, output.close)

    def _showing(self) -> list[Showing]:
        return [output for output in self._outputs if isinstance(output, Showing)]

    def _show(self, panels: Iterable[Panels]) -> None:
        for each in panels:
            for output in list(self._outputs):
                if isinstance(output, Showing):
                    self._call_output(output, partial(output.show, each))

    def _choose_drawn(self, report: Report) -> list[str]:
        if isinstance(self._options.figures, bool):
            return spread(report.layers, NUM_DRAWN)
        kept = matching([layer.name for layer in report.layers], list(self._options.figures), "figures")
        return [layer.name for layer in report.layers if layer.name in kept][:MAX_CHOSEN]

    def _choose_logged(self, report: Report) -> frozenset[str]:
        names = [layer.name for layer in report.layers]
        if self._options.log_every_layer == "auto":
            return frozenset(spread(report.layers))
        if isinstance(self._options.log_every_layer, bool):
            return frozenset(names if self._options.log_every_layer else ())
        return frozenset(matching(names, list(self._options.log_every_layer), "log_every_layer"))

    def _call_output(self, output: Output, action: Callable[[], None]) -> None:
        """One place that fails (a full disk) is given up with a warning; the others go on."""
        try:
            action()
        except Exception as error:
            if self._options.on_error == "raise":
                raise
            warn(f"no more results go to {type(output).__name__}: {type(error).__name__}: {error}")
            if output in self._outputs:
                self._outputs.remove(output)
                with contextlib.suppress(Exception):
                    output.close()


def own_outputs(
    log_dir: str | os.PathLike[str] | None, jsonl: bool | str | os.PathLike[str] | None, *, strict: bool
) -> list[Output]:
    """TensorBoard and JSON lines where they are asked for; a place that cannot be opened is a warning.

    Args:
        log_dir: folder for TensorBoard, None for none.
        jsonl: a file, or True for one in ``log_dir``.
        strict: whether such a place is an error instead.

    Raises:
        OSError: a place cannot be opened, where ``strict``.
    """
    wanted: list[Callable[[], Output]] = []
    if log_dir is not None:
        wanted.append(lambda: TensorBoardOutput(Path(log_dir) / "ww"))
    if jsonl:
        wanted.append(lambda: JsonlOutput(Path(str(log_dir)) / FILE_NAME if jsonl is True else jsonl))
    outputs: list[Output] = []
    for make in wanted:
        try:
            outputs.append(make())
        except OSError as error:
            if strict:
                raise
            warn(f"results are not written: {error}")
    return outputs
