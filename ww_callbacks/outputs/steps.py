"""Results at the steps of a run that counts in its own way, such as Lightning's loggers with manual optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ww_callbacks.outputs.output import Signals
from ww_callbacks.report import Report
from ww_callbacks.report.row import changed

Steps = Mapping[int, int]
"""Step of a snapshot → step in the run, where they differ. It may grow during the run."""

NO_STEPS: Steps = MappingProxyType({})
"""They are the same."""


def step_at(step: int, steps: Steps) -> int:
    """The step in the run.

    Example:
        >>> step_at(20, {20: 10}), step_at(30, {20: 10})
        (10, 30)
    """
    return steps.get(step, step)


def report_at(report: Report, steps: Steps) -> Report:
    """A report at the steps of the run; its layers are at them too.

    Example:
        >>> from ww_callbacks import LayerReport
        >>> report = report_at(Report((LayerReport(name="fc", kind="Linear", step=20),), step=20), {20: 10})
        >>> report.step, report["fc"].step
        (10, 10)
    """
    if report.step is None or step_at(report.step, steps) == report.step:
        return report
    layers = (
        layer if layer.step is None else changed(layer, step=step_at(layer.step, steps)) for layer in report.layers
    )
    return Report(tuple(layers), step_at(report.step, steps))


def signals_at(signals: Signals, steps: Steps) -> Signals:
    """Signals at the steps of the run; what was recorded is at them too.

    Example:
        >>> signals_at(Signals(20, {}, {"learning_rate": [(20, 0.1)], "val_loss": [(None, 0.5)]}), {20: 10})
        Signals(step=10, verdicts={}, recorded={'learning_rate': [(10, 0.1)], 'val_loss': [(None, 0.5)]})
    """
    recorded = {
        name: [(at if at is None else step_at(at, steps), value) for at, value in values]
        for name, values in signals.recorded.items()
    }
    return replace(signals, step=step_at(signals.step, steps), recorded=recorded)
