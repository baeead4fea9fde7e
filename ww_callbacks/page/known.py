"""Results in memory as a run of the page: a history, or the report of a finished model."""

from __future__ import annotations

from functools import partial

from ww_callbacks.outputs.output import Signals
from ww_callbacks.outputs.packed import Packed, pack
from ww_callbacks.page.run import Run
from ww_callbacks.report import History, Report
from ww_callbacks.report.keys import AGGREGATES
from ww_callbacks.signals.stop import VERDICT, EarlyStopping


def run_of_history(history: History, name: str) -> Run:
    """A history as a run.

    How near each rule is to a stop is known for the latest report only, and so are the spectra of reports that the
    history does not keep.

    Args:
        history: of a training.
        name: of the run.
    """
    run = Run(name)
    for report in history:
        _add(run, report)
    if len(history):
        step = history[-1].step or 0
        for finding in history.findings:
            run.add_finding(finding, step)
        run.add_signals(Signals(step, {VERDICT: EarlyStopping().judge(history).verdict}, {}), 0.0)
    for metric in history.metrics:
        for measured, value in history.recorded(metric):
            if measured is not None:
                run.add_value(metric, measured, value, 0.0)
    return run


def run_of_report(report: Report, name: str) -> Run:
    """The report of a finished model as a run with one report.

    Args:
        report: of the model.
        name: of the model.
    """
    run = Run(name)
    _add(run, report)
    for finding in report.findings:
        run.add_finding(finding, report.step or 0)
    return run


def _add(run: Run, report: Report) -> None:
    metrics = {f"{AGGREGATES}{key}": value for key, value in report.summary().items()}
    data = pack(report, metrics, 0.0, with_all=True)
    run.add(Packed(data), partial(Packed, data))
