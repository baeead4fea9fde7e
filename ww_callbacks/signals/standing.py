"""The findings of a run, put together from those that were raised and withdrawn while it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ww_callbacks.report.finding import KINDS, Finding, FindingKind, Value
from ww_callbacks.signals.wording import Named, action_of, text_of


@dataclass(frozen=True, slots=True)
class _Raised:
    """What was raised for one layer."""

    since: int | None
    step: int | None
    evidence: Mapping[str, Value]


class Standing:
    """Which findings hold, and which did.

    Example:
        >>> raised = Finding(
        ...     kind="frozen",
        ...     layers=("fc1", "fc2"),
        ...     since=100,
        ...     step=300,
        ...     evidence={},
        ...     confidence="certain",
        ...     text="",
        ... )
        >>> standing = Standing()
        >>> standing.add(raised, 300)
        >>> standing.add(replace(raised, layers=("fc1",), until=500), 500)
        >>> [(finding.layers, finding.until) for finding in standing.findings]
        [(('fc2',), None), (('fc1',), 500)]
    """

    def __init__(self) -> None:
        self._events: list[tuple[int, Finding]] = []

    def add(self, finding: Finding, step: int) -> None:
        """Take a finding that is raised, or withdrawn if it has ``until``.

        Args:
            finding: as an output gets it.
            step: of the report at which this happened.
        """
        self._events.append((step, finding))

    def cut(self, step: int) -> None:
        """Forget what happened from a step on, because the run was restarted before it.

        Args:
            step: of the first report that is replaced.
        """
        self._events = [event for event in self._events if event[0] < step]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Those that hold, one for each kind, alarms first; then those that were withdrawn, the latest first."""
        held: dict[FindingKind, dict[str, _Raised]] = {}
        first: dict[FindingKind, Finding] = {}
        withdrawn = []
        for _, finding in self._events:
            layers = held.setdefault(finding.kind, {})
            if finding.until is not None:
                withdrawn.append(finding)
                for name in finding.layers:
                    layers.pop(name, None)
                continue
            first.setdefault(finding.kind, finding)
            for name in finding.layers:
                layers[name] = _Raised(finding.since, finding.step, finding.evidence.get(name, {}))
        return (
            *(_together(first[kind], held[kind]) for kind in KINDS if held.get(kind)),
            *reversed(withdrawn),
        )


def _together(finding: Finding, layers: Mapping[str, _Raised]) -> Finding:
    """One finding for all layers for which its kind holds."""
    named = [Named(name, each.evidence, each.since) for name, each in layers.items()]
    try:
        text = text_of(finding.kind, named)
    except (KeyError, TypeError, ValueError):  # evidence from a file may hold anything
        text = finding.text
    return replace(
        finding,
        layers=tuple(layers),
        since=min((each.since for each in layers.values() if each.since is not None), default=None),
        step=max((each.step for each in layers.values() if each.step is not None), default=None),
        evidence={name: each.evidence for name, each in layers.items()},
        text=text,
        action=action_of(finding.kind),
    )
