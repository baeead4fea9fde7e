"""Signals: they judge the history after each report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ww_callbacks.report import History


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judgement of a signal after a report.

    Attributes:
        metrics: logged with the report, under full keys such as ``ww/stop/plateau``.
        verdict: what to do, as plain values (str, int, float, bool, None, lists and dicts of them), so that it can be
            broadcast to other ranks and stored in a checkpoint.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)


class Signal(Protocol):
    """Judges a history; attached to a monitor by :meth:`ww_callbacks.Monitor.attach`.

    It may have an attribute ``needs``: names of settings of the analysis, such as ``("farms",)``, that a monitor turns
    on when the signal is attached.
    """

    def judge(self, history: History) -> Judgement:
        """The judgement after the latest report of ``history``; a function of the history alone."""
