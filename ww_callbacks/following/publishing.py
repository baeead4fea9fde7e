"""Publishes the results of followed checkpoints as a monitor would, and continues where a killed process stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from ww_callbacks.engine import Missed
from ww_callbacks.monitor.options import Options
from ww_callbacks.monitor.publishing import Published, Publisher
from ww_callbacks.outputs.jsonl import FILE_NAME, JsonlOutput, read_jsonl
from ww_callbacks.outputs.output import Signals
from ww_callbacks.outputs.panels import Panels
from ww_callbacks.outputs.tensorboard import TensorBoardOutput, records
from ww_callbacks.report import Finding, History, LayerReport, Report
from ww_callbacks.signals.stop import VERDICT, EarlyStopping
from ww_callbacks.worker.process_pool import FigureWorker

FIGURES_TIMEOUT = 60.0
"""Seconds of CPU time that drawing may take, and seconds that the end waits for it."""

_IN_EVERY_REPORT = "ww/lag_steps"
"""A tag that every report has once."""


class Publishing:
    """History, signals and outputs of a followed run.

    The reports that were published before are passed through the signals again, without any output, so that verdicts
    and findings are those of a process that was never interrupted.

    Args:
        options: those of a monitor that apply here.
        log_dir: folder for TensorBoard (``ww``) and the JSON lines.
        done: number of reports that were published completely. What was written of the next one is removed, or not
            written again.
        early_stopping: the rules; None for the default ones.
        before: the reports from this step on are left out, because the run was restarted before it; None for all.

    Raises:
        OSError: a file cannot be read or written.
        ImportError: tensorboard is not installed.
    """

    def __init__(
        self,
        options: Options,
        log_dir: Path,
        done: int,
        early_stopping: EarlyStopping | None = None,
        before: int | None = None,
    ) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        lines = log_dir / FILE_NAME
        _keep_reports(lines, done)
        known = read_jsonl(lines) if lines.exists() else History()
        self._is_live = False
        self._files = [
            _Gate(TensorBoardOutput(log_dir / "ww"), self, set(_steps_in(log_dir / "ww")[done:])),
            _Gate(JsonlOutput(lines), self, set()),
        ]
        others = [_Gate(output, self, set()) for output in options.outputs]
        self._figures = FigureWorker(FIGURES_TIMEOUT)
        self._publisher = Publisher(
            replace(options, on_result=self._told(options.on_result), on_finding=self._told(options.on_finding)),
            [*self._files, *others],
            self._draw,
        )
        if early_stopping is not None:
            self._publisher.attach(VERDICT, early_stopping)
        for report in known:
            if before is None or (report.step or 0) < before:
                self._publish(report, 0.0)
        self._is_live = True

    @property
    def history(self) -> History:
        """The reports so far."""
        return self._publisher.history

    @property
    def published(self) -> Published:
        """What is known."""
        return self._publisher.published

    def publish(self, step: int, layers: Sequence[LayerReport], written: float) -> Report:
        """Publish the results of a checkpoint; when this returns, they are in the files.

        Args:
            step: of the checkpoint.
            layers: the results of all its layers.
            written: when it was written, in seconds since the epoch.

        Raises:
            OSError: a file cannot be written.
        """
        self._publish(Report.of(layers, step), written)
        for output in self._files:
            output.flush()
        return self.history[-1]  # type: ignore[no-any-return]

    def _publish(self, report: Report, written: float) -> None:
        names = [layer.name for layer in report]
        self._publisher.choose_layers(names, [layer.name for layer in report if layer.status != "skipped"])
        for _ in self._publisher.publish(report, lag_steps=0, missed=Missed(), wall_time=written):
            pass
        self._publisher.update(report.step)

    def finish(self) -> None:
        """Show the figures of the last report."""
        if len(self.history):
            self._publisher.finish(time.monotonic() + FIGURES_TIMEOUT)

    def close(self) -> None:
        """Close the files and stop drawing."""
        self._figures.shutdown()
        self._publisher.close()

    def _draw(self, task: dict[str, Any]) -> Future[dict[str, Any]] | None:
        return self._figures.draw(task) if self._is_live else None

    def _told(self, tell: Callable[[Any], object] | None) -> Callable[[Any], object]:
        def told(result: Any) -> None:
            if self._is_live and tell is not None:
                tell(result)

        return told

    @property
    def is_live(self) -> bool:
        """Whether reports are new, not those published before."""
        return self._is_live


class _Gate:
    """An output that is not given the reports that were published before.

    Args:
        output: the output.
        publishing: knows whether reports are new.
        written: steps that it has already.
    """

    def __init__(self, output: Any, publishing: Publishing, written: set[int]) -> None:
        self._output, self._publishing, self._written = output, publishing, written
        self._step: int | None = None

    @property
    def _is_open(self) -> bool:
        return self._publishing.is_live and self._step not in self._written

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        self._step = report.step
        if self._is_open:
            self._output.write(report, metrics, wall_time)

    def show(self, panels: Panels) -> None:
        if self._is_open and hasattr(self._output, "show"):
            self._output.show(panels)

    def write_finding(self, finding: Finding, wall_time: float) -> None:
        if self._is_open and hasattr(self._output, "write_finding"):
            self._output.write_finding(finding, wall_time)

    def write_signals(self, signals: Signals, wall_time: float) -> None:
        if self._is_open and hasattr(self._output, "write_signals"):
            self._output.write_signals(signals, wall_time)

    def flush(self) -> None:
        self._output.flush()

    def close(self) -> None:
        self._output.close()


def _keep_reports(path: Path, count: int) -> None:
    """Cut off what a file of JSON lines holds after its first reports and their findings."""
    if not path.exists():
        return
    end = 0
    with path.open("rb+") as file:
        for line in file:
            count -= line.startswith(b'{"step"')
            if count < 0 or not line.endswith(b"\n"):
                break
            end += len(line)
        file.truncate(end)


def _steps_in(folder: Path) -> list[int]:
    """The step of each report in the event files of a folder, in the order in which they were written."""
    from tensorboard.compat.proto.event_pb2 import Event

    steps = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        with path.open("rb") as file:
            for data in records(file):
                event = Event.FromString(data)
                if any(value.tag == _IN_EVERY_REPORT for value in event.summary.value):
                    steps.append(int(event.step))
    return steps
