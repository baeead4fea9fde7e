"""Outputs: where results go, and how all outputs of a run are called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ww_callbacks.checks import warn_disabled
from ww_callbacks.outputs.panels import Panels
from ww_callbacks.report import Finding, Report


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known beside a report.

    Attributes:
        step: of the report.
        verdicts: the verdict of each signal, by its name.
        recorded: metric of the user → steps and values that were recorded since the report before.
    """

    step: int
    verdicts: Mapping[str, Mapping[str, Any]]
    recorded: Mapping[str, Sequence[tuple[int | None, float]]]


class Output(Protocol):
    """A destination for results.

    Its methods are called from the training thread. An output that also has a method ``show(panels)`` gets the
    figures, texts and histograms as :class:`~ww_callbacks.outputs.panels.Panels`. One with a method
    ``write_finding(finding, wall_time)`` gets each :class:`~ww_callbacks.report.Finding` when it is raised, and again,
    with ``until``, when it is withdrawn. One with a method ``write_signals(signals, wall_time)`` gets the
    :class:`Signals` after each report.

    Example:
        >>> class Printer:
        ...     def write(self, report, metrics, wall_time):
        ...         print(report.step, metrics["ww/alpha"])
        ...
        ...     def close(self):
        ...         pass
    """

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Write one report; reports come in the order of their steps.

        Args:
            report: the results of one snapshot.
            metrics: the same as flat metrics, those of signals included. A metric without a value is left out; it is
                NaN if it had one until layers failed.
            wall_time: when the snapshot was taken, in seconds since the epoch.
        """

    def close(self) -> None:
        """Called after the last report."""


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """The calls of one output, looked up once."""

    name: str
    write: Callable[[Report, Mapping[str, float], float], None]
    show: Callable[[Panels], None] | None
    write_finding: Callable[[Finding, float], None] | None
    write_signals: Callable[[Signals, float], None] | None
    close: Callable[[], None]

    @classmethod
    def of(cls, output: Output) -> _Target:
        return cls(
            type(output).__name__,
            output.write,
            getattr(output, "show", None),
            getattr(output, "write_finding", None),
            getattr(output, "write_signals", None),
            output.close,
        )


class Outputs:
    """All outputs of a run. A failing output is dropped with a warning; the others continue.

    Args:
        outputs: the destinations, each with ``write``, ``close`` and perhaps ``show``.
        strict: raise the error of a failing output instead.

    Example:
        >>> class Printer:
        ...     def write(self, report, metrics, wall_time):
        ...         print(report.step, metrics)
        ...
        ...     def close(self):
        ...         print("closed")
        >>> outputs = Outputs([Printer()])
        >>> outputs.write(Report((), step=5), {"ww/failed": 0.0}, 1.0)
        5 {'ww/failed': 0.0}
        >>> outputs.close()
        closed
    """

    def __init__(self, outputs: Iterable[Output], *, strict: bool = False) -> None:
        self._targets = [_Target.of(output) for output in outputs]
        self._strict = strict

    @property
    def show_panels(self) -> bool:
        """Whether any output shows panels."""
        return any(target.show is not None for target in self._targets)

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Write one report to every output; see :meth:`Output.write`."""
        for target in list(self._targets):
            self._call(target, partial(target.write, report, metrics, wall_time))

    def show(self, panels: Panels) -> None:
        """Show figures, texts and histograms on every output that can."""
        for target in list(self._targets):
            if target.show is not None:
                self._call(target, partial(target.show, panels))

    def write_finding(self, finding: Finding, wall_time: float) -> None:
        """Write a finding that is raised or withdrawn to every output that can."""
        for target in list(self._targets):
            if target.write_finding is not None:
                self._call(target, partial(target.write_finding, finding, wall_time))

    def write_signals(self, signals: Signals, wall_time: float) -> None:
        """Write what is known beside a report to every output that can."""
        for target in list(self._targets):
            if target.write_signals is not None:
                self._call(target, partial(target.write_signals, signals, wall_time))

    def close(self) -> None:
        """Close every output."""
        targets, self._targets = self._targets, []
        for target in targets:
            self._call(target, target.close)

    def _call(self, target: _Target, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if self._strict:
                raise
            warn_disabled(target.name, error)
            if target in self._targets:
                self._targets.remove(target)
                with contextlib.suppress(Exception):
                    target.close()
