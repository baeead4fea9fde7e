"""Publishes reports: into the history, to the signals, as metrics to the outputs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ww_callbacks.checks import warn
from ww_callbacks.console import above_bars
from ww_callbacks.engine import Missed
from ww_callbacks.monitor.guarded import Guarded
from ww_callbacks.monitor.options import Figures, LogEveryLayer, Options
from ww_callbacks.outputs.jsonl import FILE_NAME, JsonlOutput
from ww_callbacks.outputs.lost import LostMetrics
from ww_callbacks.outputs.metrics import LoggedLayers, finding_metrics, metrics_of, spread
from ww_callbacks.outputs.output import Output, Outputs, Signals
from ww_callbacks.outputs.panel_schedule import Draw, PanelSchedule
from ww_callbacks.outputs.panels import MAX_CHOSEN, Panels, finding_panels
from ww_callbacks.outputs.tensorboard import TensorBoardOutput
from ww_callbacks.patterns import matching
from ww_callbacks.report import Finding, History, Report
from ww_callbacks.report.experts import blocks_of
from ww_callbacks.report.history import MEMORY_ENTRIES
from ww_callbacks.report.keys import AGGREGATES, PREFIX, aggregates, with_prefix
from ww_callbacks.signals.findings import Tracker, has_decayed, is_plateau
from ww_callbacks.signals.learning_rate import VERDICTS, LayerRatios, ratios_by_name
from ww_callbacks.signals.signal import Judgement, Signal, judged_by
from ww_callbacks.signals.stop import VERDICT, EarlyStopping, stop_message

_log = logging.getLogger("ww_callbacks")

NUM_DRAWN = 3
"""Layers whose spectrum is drawn by default, spread over the depth."""
MAX_RECORDED = 50
"""Values of one recorded metric that are written with a report."""


@dataclass(frozen=True, slots=True)
class Published:
    """What is known at a snapshot step, as plain values; it changes at snapshot steps and at the end only.

    Attributes:
        metrics: the latest ``ww/…`` metrics, or those with the ``prefix`` of the monitor; NaN for one that had a value
            until layers failed.
        verdicts: the verdict of each signal, by the name under which it was attached.
        reports: how many reports had come in.
        step: finished optimizer steps when this became known; None before the first.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    verdicts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reports: int = 0
    step: int | None = None

    @property
    def should_stop(self) -> bool:
        """Whether the verdict "stop" is to end training."""
        return bool(self.verdicts.get(VERDICT, {}).get("stop"))

    @property
    def stop_reason(self) -> str:
        """Why training should end; empty if it should not."""
        return stop_message(self.verdicts[VERDICT], self.step) if self.should_stop else ""


class Publisher:
    """History, signals and outputs of one monitor.

    Attributes:
        history: the reports so far.
        published: what is known as of the last snapshot step.

    Args:
        options: of the monitor.
        outputs: destinations for results.
        draw: submits a drawing task.
    """

    def __init__(self, options: Options, outputs: Iterable[Output], draw: Draw) -> None:
        self._options, self._draw = options, draw
        self._strict = options.on_error == "raise"
        self._outputs = Outputs(outputs, strict=self._strict)
        self._signals: dict[str, Guarded[Judgement]] = {}
        self._on_result = Guarded("on_result", options.on_result, strict=self._strict)
        self._on_finding = Guarded("on_finding", options.on_finding, strict=self._strict)
        self._default_stop = EarlyStopping()
        self._logged: LoggedLayers | None = None
        self._panels: PanelSchedule | None = None
        self._upcoming: Published | None = None
        self._tracker = Tracker()
        self._lost = LostMetrics()
        self._sent: dict[str, int] = {}
        self.history = History(max_entries=MEMORY_ENTRIES)
        self.published = Published()

    def attach(self, name: str, signal: Signal) -> None:
        """Let a signal judge the history after each report.

        Raises:
            ValueError: another signal has that name.
        """
        if name in self._signals:
            raise ValueError(f"name: {name!r} is attached already, choose another name")
        self._signals[name] = Guarded(f"signal {name!r}", partial(judged_by, signal), strict=self._strict)

    def choose_layers(self, names: Sequence[str], analysed: Sequence[str]) -> None:
        """Choose the layers that have metrics of their own and figures; the first choice stays for the run.

        Args:
            names: of every layer of the model.
            analysed: those of the layers that are analysed.
        """
        if self._logged is not None:
            return
        choice = self._options.log_every_layer
        self._logged = LoggedLayers(logged_layers(names, analysed, choice), grows=choice == "auto")
        self._logged.add(self._tracker.findings)
        drawn = drawn_layers(names, analysed, self._options.figures)
        if self._options.figures is not False and self._outputs.show_panels:
            self._panels = PanelSchedule(self._logged.names, drawn, self._draw)

    def publish(self, report: Report, *, lag_steps: int, missed: Missed, wall_time: float) -> Iterator[None]:
        """Publish a report, in pieces between which training can continue; reports come in the order of their steps.

        Args:
            report: the results of one snapshot.
            lag_steps: steps between the snapshot and now.
            missed: snapshots missed when it was taken.
            wall_time: when it was taken, in seconds since the epoch.
        """
        assert self._logged is not None
        report = self.history.append(report)
        yield
        judgements = {}
        for name, signal in self._signals.items():
            judgements[name] = signal(self.history) or Judgement()
            yield
        verdicts = self._verdicts(judgements)
        yield
        warned = self._tracker.raised
        findings = yield from self._tracker.adding(
            report, is_plateau=self._is_plateau(verdicts), has_decayed=has_decayed(self.history, report.step)
        )
        self._logged.add(findings)
        metrics = metrics_of(
            report,
            [judgement.metrics for judgement in judgements.values()],
            self._logged.names,
            lag_steps=lag_steps,
            skipped=missed.skipped,
            over_budget=missed.over_budget,
        )
        metrics |= self._lost.add(report, metrics, self._logged.names)
        prefix = self._options.prefix
        self._upcoming = Published(with_prefix(aggregates(metrics), prefix), verdicts, self.history.seen)
        yield
        written = with_prefix(metrics | finding_metrics(self._tracker.counts), prefix)
        self._outputs.write(report, written, wall_time)
        yield
        self._outputs.write_signals(Signals(report.step or 0, verdicts, self._recorded()), wall_time)
        yield
        if self._panels is not None:
            self._panels.names = self._logged.names
            self._show(self._panels.add(report, wall_time))
            yield
        self._on_result(report)
        self._tell(findings, warned, report.step, wall_time)

    def update(self, step: int | None) -> None:
        """Let ``published`` be what has come in; decisions then depend on the step alone.

        Args:
            step: finished optimizer steps, those of a snapshot or of the end.
        """
        if self._upcoming is not None:
            self.published, self._upcoming = replace(self._upcoming, step=step), None

    def lr_ratios(self) -> dict[str, float]:
        """The factor for the learning rate of each layer, by name; see :meth:`ww_callbacks.Monitor.lr_ratios`."""
        verdict = self.published.verdicts.get(VERDICTS["learning_rate"])
        if verdict is None and self.published.reports:
            verdict = LayerRatios().verdict(self.history[self.published.reports - 1 - self.history.seen])
        return ratios_by_name(verdict or {})

    def finish(self, deadline: float) -> None:
        """Show the figures of the last report.

        Args:
            deadline: of ``time.monotonic()``.
        """
        if self._panels is not None:
            self._show(self._panels.finish(deadline))

    def restore(self, history: History, published: Published) -> None:
        """Continue from the state of a checkpoint."""
        known = {f"{AGGREGATES}{key.partition('/')[2]}": value for key, value in published.metrics.items()}
        tracker, lost = Tracker.of(history), LostMetrics.of(history, known)
        published = replace(published, metrics=with_prefix(known, self._options.prefix))
        self.history, self.published, self._upcoming = history, published, None
        self._tracker, self._lost = tracker, lost
        self._sent = {name: len(history.recorded(name)) for name in history.metrics}

    def close(self) -> None:
        """Close the outputs."""
        self._outputs.close()

    def _recorded(self) -> dict[str, list[tuple[int | None, float]]]:
        """What has been recorded of each metric of the user since the report before."""
        found = {}
        for name in self.history.metrics:
            values = self.history.recorded(name)
            if new := values[self._sent.get(name, 0) :]:
                found[name] = spread(new, MAX_RECORDED)
            self._sent[name] = len(values)
        return found

    def _verdicts(self, judgements: Mapping[str, Judgement]) -> dict[str, Mapping[str, Any]]:
        """The verdicts; without a signal of that name, "stop" is the verdict of the default rules."""
        verdicts = {name: judgement.verdict for name, judgement in judgements.items()}
        if VERDICT not in verdicts:
            verdicts[VERDICT] = self._default_stop.judge(self.history).verdict
        return verdicts

    def _is_plateau(self, verdicts: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether the rule "plateau" is at its full score, from the verdict if that rule was asked."""
        score = verdicts.get(VERDICT, {}).get("scores", {}).get("plateau")
        return is_plateau(self.history) if score is None else score >= 1

    def _tell(self, findings: Sequence[Finding], warned: Collection[str], step: int | None, wall_time: float) -> None:
        """Tell of what was raised and withdrawn: the log, the outputs, the user's own function."""
        if not findings:
            return
        for finding in findings:
            is_new = finding.is_alarm and finding.until is None and finding.kind not in warned
            with above_bars(_log):
                _log.log(logging.WARNING if is_new else logging.INFO, "step %s: %s", step, finding)
            self._outputs.write_finding(finding, wall_time)
        self._show([finding_panels(findings, step, wall_time)])
        for finding in findings:
            self._on_finding(finding)

    def _show(self, panels: Iterable[Panels]) -> None:
        for each in panels:
            self._outputs.show(each.with_prefix(self._options.prefix))


def logged_layers(names: Sequence[str], analysed: Sequence[str], choice: LogEveryLayer) -> frozenset[str]:
    """The layers that have metrics of their own, and the blocks of experts.

    Args:
        names: of every layer of the model.
        analysed: those of the layers that are analysed.
        choice: "auto", True, False or patterns.

    Raises:
        ValueError: a pattern matches no layer.
    """
    if choice == "auto":
        return frozenset(spread(_with_blocks(analysed)))
    if isinstance(choice, bool):
        return frozenset([*names, *blocks_of(tuple(names))] if choice else ())
    return frozenset(matching(names, list(choice), "log_every_layer"))


def drawn_layers(names: Sequence[str], analysed: Sequence[str], choice: Figures) -> list[str]:
    """The layers whose spectrum is drawn.

    Args:
        names: of every layer of the model.
        analysed: those of the layers that are analysed.
        choice: True, False or patterns.

    Raises:
        ValueError: a pattern matches no layer.
    """
    if isinstance(choice, bool):
        return spread(analysed, NUM_DRAWN) if choice else []
    kept = matching(names, list(choice), "figures")
    return [name for name in names if name in kept][:MAX_CHOSEN]


def own_outputs(
    log_dir: str | os.PathLike[str] | None,
    jsonl: bool | str | os.PathLike[str] | None,
    *,
    prefix: str = PREFIX,
    strict: bool,
) -> list[Output]:
    """The outputs for TensorBoard and JSON lines, if wanted. One that cannot be opened is left out with a warning.

    Args:
        log_dir: folder for TensorBoard, None for none.
        jsonl: a file, or True for one in ``log_dir``.
        prefix: of the metrics.
        strict: raise the error instead.

    Raises:
        OSError: with ``strict``, a file cannot be opened.
    """
    wanted: list[Callable[[], Output]] = []
    if log_dir is not None:
        wanted.append(lambda: TensorBoardOutput(Path(log_dir) / "ww", prefix))
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


def _with_blocks(names: Sequence[str]) -> list[str]:
    """The names, with that of a block in place of those of its experts."""
    blocks = {names[index]: block for block, indices in blocks_of(tuple(names)).items() for index in indices}
    return list(dict.fromkeys(blocks.get(name, name) for name in names))
