"""Findings as alerts: a short title, a text and a level, each at most once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ww_callbacks.printable import LONGEST_NAME, shown_name
from ww_callbacks.report import Finding

Level = Literal["INFO", "WARN", "ERROR"]

LONGEST_TITLE = 63
"""Maximal number of characters of a title. W&B takes less than 64."""


@dataclass(frozen=True, slots=True)
class Alert:
    """What a service sends to people.

    Attributes:
        title: the kind of the finding and its worst layer.
        text: the finding in words.
        level: "INFO" for a notice, "WARN" for an alarm, "ERROR" for an alarm that is certain.
    """

    title: str
    text: str
    level: Level

    @classmethod
    def of(cls, finding: Finding) -> Alert:
        """The alert for a finding.

        Example:
            >>> finding = Finding(
            ...     kind="non_finite",
            ...     layers=("encoder.fc", "head"),
            ...     since=400,
            ...     step=600,
            ...     evidence={},
            ...     confidence="certain",
            ...     text="encoder.fc and head hold NaN or infinite weights since step 400.",
            ... )
            >>> alert = Alert.of(finding)
            >>> alert.title, alert.level
            ('non_finite in encoder.fc and 1 more', 'ERROR')
        """
        return cls(_title(finding), str(finding), _level(finding))


class Alerts:
    """The alerts of a run: one for each kind of finding and set of layers.

    Example:
        >>> finding = Finding(
        ...     kind="frozen", layers=("fc",), since=0, step=20, evidence={}, confidence="certain", text="fc is frozen."
        ... )
        >>> alerts = Alerts()
        >>> alerts.of(finding), alerts.of(finding)
        (Alert(title='frozen in fc', text='fc is frozen.', level='INFO'), None)
    """

    def __init__(self) -> None:
        self._sent: set[tuple[str, frozenset[str]]] = set()

    def of(self, finding: Finding) -> Alert | None:
        """The alert to send; None if the finding is withdrawn, or if the same layers had it before."""
        key = finding.kind, frozenset(finding.layers)
        if finding.until is not None or key in self._sent:
            return None
        self._sent.add(key)
        return Alert.of(finding)


def _level(finding: Finding) -> Level:
    if not finding.is_alarm:
        return "INFO"
    return "ERROR" if finding.confidence == "certain" else "WARN"


def _title(finding: Finding) -> str:
    if not finding.layers:
        return finding.kind
    start, more = f"{finding.kind} in ", f" and {len(finding.layers) - 1} more" if len(finding.layers) > 1 else ""
    return start + shown_name(finding.layers[0], min(LONGEST_NAME, LONGEST_TITLE - len(start) - len(more))) + more
