"""Signals: they judge the history after each report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ww_callbacks.checks import check_flag, check_methods
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


def check_signal(name: object, signal: object, acts: object) -> None:
    """Check the arguments of :meth:`ww_callbacks.Monitor.attach`.

    Raises:
        TypeError: the name is no string, the signal cannot judge, or ``acts`` is neither True, False nor None.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {name!r}")
    check_methods("signal", signal, ["judge(history)"])
    check_flag("acts", acts, or_none=True)


def judged_by(signal: Signal, history: History) -> Judgement:
    """The judgement of a signal.

    Raises:
        TypeError: it returns something else.
    """
    judgement: object = signal.judge(history)
    if not isinstance(judgement, Judgement):
        raise TypeError(f"judge(history) returned {judgement!r}, expected a Judgement")
    return judgement
