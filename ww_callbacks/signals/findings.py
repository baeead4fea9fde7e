"""Which findings hold: raised after several results in a row, withdrawn after as many without.

Results of a layer count when it was newly analysed, so layers that take turns, gaps and repeated results do not matter.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace

from ww_callbacks.report import History, Report
from ww_callbacks.report.finding import KINDS, Confidence, Finding, FindingKind
from ww_callbacks.signals.courses import Courses, Seen
from ww_callbacks.signals.detectors import DETECTORS, Detector, Shown
from ww_callbacks.signals.rates import LEARNING_RATE, decay_words
from ww_callbacks.signals.rules import FUNCTIONS, RuleOptions
from ww_callbacks.signals.wording import Named, action_of, text_of


def findings_of_report(report: Report) -> tuple[Finding, ...]:
    """What one report shows, alarms first; of the weights before the first step only what is certain.

    Args:
        report: of a finished model, or of one snapshot of a run.

    Example:
        >>> from ww_callbacks import LayerReport
        >>> lost = LayerReport(name="fc", kind="Linear", status="failed", skip_reason="non_finite")
        >>> [str(finding) for finding in findings_of_report(Report((lost,)))][0][:35]
        'fc holds NaN or infinite weights. G'
    """
    seen = Seen.alone(report)
    held: list[_Held] = []
    for detector in DETECTORS:
        if report.step == 0 and detector.confidence != "certain":
            continue
        for shown in detector.shows(seen):
            step = _step_of(report, shown.name)
            held.append(_Held(shown.kind or detector.kind, detector.confidence, shown, shown.since, step, 1))
    return _grouped(held)


def findings_of_history(history: History) -> tuple[Finding, ...]:
    """What holds at the latest report of a run, alarms first.

    The rule "plateau" is judged for the latest report only, so its ``since`` is that step; a monitor knows it better.

    Args:
        history: the reports of the run.
    """
    return Tracker.of(history).findings


@dataclass(slots=True)
class _Held:
    """What a detector says of one layer.

    Attributes:
        kind: of the finding.
        confidence: of the finding.
        shown: what was shown last.
        since: first step of the results in a row that showed it.
        step: of the result that was judged last.
        streak: number of results in a row that showed it.
        misses: number of results in a row that did not.
        is_raised: whether the finding holds.
    """

    kind: FindingKind
    confidence: Confidence
    shown: Shown
    since: int | None
    step: int | None
    streak: int = 0
    misses: int = 0
    is_raised: bool = False


class Tracker:
    """The findings of a run, updated report by report.

    A finding is raised for a layer if a detector shows it in as many results of the layer in a row as the detector
    requires, and withdrawn after as many that do not. Layers for which the same is raised (or withdrawn) at a report
    are one finding.

    Example:
        >>> from ww_callbacks import LayerReport
        >>> def report(step, reason):
        ...     return Report(
        ...         (LayerReport(name="fc", kind="Linear", status="failed", skip_reason=reason, step=step),), step
        ...     )
        >>> tracker = Tracker()
        >>> [finding.kind for finding in tracker.add(report(10, "non_finite"))]
        ['non_finite']
        >>> tracker.add(report(20, "non_finite")), tracker.findings[0].since, tracker.counts
        ((), 10, {'non_finite': 1})
    """

    def __init__(self) -> None:
        self._courses = Courses()
        self._held: list[dict[str, _Held]] = [{} for _ in DETECTORS]
        self._raised: dict[FindingKind, None] = {}

    @classmethod
    def of(cls, history: History) -> Tracker:
        """The state after the reports of a history, as if they had come in one by one.

        Args:
            history: of a run, such as one restored from a checkpoint.
        """
        tracker = cls()
        last = len(history) - 1
        for index, report in enumerate(history):
            tracker.add(
                report,
                is_plateau=index == last and is_plateau(history),
                has_decayed=has_decayed(history, report.step),
            )
        return tracker

    def add(self, report: Report, *, is_plateau: bool = False, has_decayed: bool = False) -> tuple[Finding, ...]:
        """Take a report; reports come in the order of their steps.

        Args:
            report: the latest one.
            is_plateau: whether the rule "plateau" is at its full score.
            has_decayed: whether the learning rate has fallen to less than half.

        Returns:
            The findings that are raised, then those that are withdrawn, which have ``until``.
        """
        adding = self.adding(report, is_plateau=is_plateau, has_decayed=has_decayed)
        while True:
            try:
                next(adding)
            except StopIteration as end:
                found: tuple[Finding, ...] = end.value
                return found

    def adding(
        self, report: Report, *, is_plateau: bool = False, has_decayed: bool = False
    ) -> Generator[None, None, tuple[Finding, ...]]:
        """:meth:`add` in pieces, one detector after the other."""
        seen = self._courses.add(report, is_plateau=is_plateau, has_decayed=has_decayed)
        yield
        fresh = {layer.name: layer for layer in seen.fresh}
        present = {layer.name for layer in report.layers}
        raised: list[_Held] = []
        withdrawn: list[_Held] = []
        for detector, held in zip(DETECTORS, self._held, strict=True):
            shown = {each.name: each for each in detector.shows(seen)}
            for each in shown.values():
                step = fresh[each.name].step if each.name in fresh else None
                entry = _show(detector, held, each, report.step if step is None else step)
                if not entry.is_raised and (each.is_enough or entry.streak >= detector.patience):
                    entry.is_raised = True
                    raised.append(entry)
            missing = [
                name
                for name in held
                if name not in shown and (detector.judges(seen, fresh[name]) if name in fresh else name not in present)
            ]
            withdrawn += filter(None, [_miss(detector, held, name) for name in missing])
            yield
        new = _grouped(raised)
        self._raised |= dict.fromkeys(finding.kind for finding in new)
        return (*new, *(replace(finding, until=report.step) for finding in _grouped(withdrawn)))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What holds now, one finding for each kind, alarms first."""
        return _grouped(entry for held in self._held for entry in held.values() if entry.is_raised)

    @property
    def counts(self) -> dict[FindingKind, int]:
        """For each kind that was ever raised, the number of layers that it concerns now."""
        counts = dict.fromkeys(self._raised, 0)
        for held in self._held:
            for entry in held.values():
                counts[entry.kind] = counts.get(entry.kind, 0) + entry.is_raised
        return {kind: count for kind, count in counts.items() if kind in self._raised}

    @property
    def raised(self) -> frozenset[FindingKind]:
        """The kinds that were ever raised."""
        return frozenset(self._raised)


def is_plateau(history: History) -> bool:
    """Whether the rule "plateau", with its default options, is at its full score at the latest report."""
    return len(history) > 0 and FUNCTIONS["plateau"](history, RuleOptions()).score >= 1


def has_decayed(history: History, step: int | None) -> bool:
    """Whether the learning rate, where it is known, had fallen to less than half by a step."""
    rates = history.recorded(LEARNING_RATE)
    return bool(decay_words([each for each in rates if step is None or each[0] is None or each[0] <= step]))


def _show(detector: Detector, held: dict[str, _Held], shown: Shown, step: int | None) -> _Held:
    """Count a result that shows it."""
    entry = held.get(shown.name)
    if entry is None:
        entry = held[shown.name] = _Held(detector.kind, detector.confidence, shown, step, step)
    if not entry.is_raised:
        entry.kind = shown.kind or detector.kind
    entry.shown, entry.step, entry.misses = shown, step, 0
    entry.streak += 1
    if shown.since is not None and not entry.is_raised:
        entry.since = shown.since
    return entry


def _miss(detector: Detector, held: dict[str, _Held], name: str) -> _Held | None:
    """Count a result that does not show it; returns the entry if the finding is withdrawn."""
    entry = held[name]
    entry.misses += 1
    entry.streak = 0
    if entry.is_raised and entry.misses < detector.patience:
        return None
    del held[name]
    return entry if entry.is_raised else None


def _grouped(entries: Iterable[_Held]) -> tuple[Finding, ...]:
    """One finding for each kind, in the order of the kinds, its layers from the most severe on."""
    by_kind: dict[FindingKind, list[_Held]] = {}
    for entry in entries:
        by_kind.setdefault(entry.kind, []).append(entry)
    return tuple(_finding(kind, by_kind[kind]) for kind in KINDS if kind in by_kind)


def _finding(kind: FindingKind, entries: list[_Held]) -> Finding:
    entries = sorted(entries, key=lambda entry: -entry.shown.severity)
    named = [Named(entry.shown.name, entry.shown.evidence, entry.since) for entry in entries]
    return Finding(
        kind=kind,
        layers=tuple(entry.shown.name for entry in entries),
        since=min((entry.since for entry in entries if entry.since is not None), default=None),
        step=max((entry.step for entry in entries if entry.step is not None), default=None),
        evidence={entry.shown.name: dict(entry.shown.evidence) for entry in entries},
        confidence=entries[0].confidence,
        text=text_of(kind, named),
        action=action_of(kind),
    )


def _step_of(report: Report, name: str) -> int | None:
    step = next((layer.step for layer in report.layers if layer.name == name), None)
    return report.step if step is None else step
