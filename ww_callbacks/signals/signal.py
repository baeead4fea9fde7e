"""What a signal is to the monitor: a judgement of the history, after each report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ww_callbacks.report import History


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a signal says after a report.

    Attributes:
        metrics: to be logged with the report, under full keys such as ``ww/stop/plateau``.
        verdict: what is to be done, as plain values (str, int, float, bool, None, lists and dicts of them), so that one
            rank can tell the others and a checkpoint can keep it.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)


class Signal(Protocol):
    """Something that judges a history; attached to a monitor by :meth:`ww_callbacks.Monitor.attach`."""

    def judge(self, history: History) -> Judgement:
        """The judgement after the latest report of ``history``; a function of the history alone."""
