"""One finding: what is wrong with a training, in which layers, since which step, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ww_callbacks.printable import shown_text
from ww_callbacks.report.columns import is_count

FindingKind = Literal[
    "non_finite",
    "rate_too_large",
    "exploding",
    "collapsing",
    "lost_updates",
    "weight_decay",
    "rank_collapse",
    "trap_rows",
    "trap_columns",
    "trap_elements",
    "trap_mixed",
    "rate_too_small",
    "failed",
    "trap_mean",
    "trap_kurtosis",
    "frozen",
    "decay_only",
    "one_direction",
    "moves_most",
    "not_learning",
    "under_trained",
    "over_trained",
    "unused_rank",
    "plateau",
]
"""What can be found, the most serious first. docs/findings.md has a row for each."""

KINDS: tuple[FindingKind, ...] = get_args(FindingKind)

ALARMS: frozenset[FindingKind] = frozenset(KINDS[: KINDS.index("failed")])
"""Kinds that ask for something to be done now; the others are notices."""

Confidence = Literal["certain", "likely", "possible"]
CONFIDENCES: tuple[Confidence, ...] = get_args(Confidence)

LONGEST_FINDING = 2000
"""Maximal number of characters of a finding in words."""

Value = float | int | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is found in some layers, with its evidence. ``str()`` of it is what a user reads.

    Attributes:
        kind: one of a closed set, see ``FindingKind``.
        layers: names of the layers, the worst first.
        since: first step of the results that show it without a break; None for a finished model.
        step: latest step of the results that were judged; None for a finished model.
        evidence: layer → column → value. Names that are no columns of a LayerReport are explained in docs/findings.md.
        confidence: "certain" (a fact), "likely" (healthy trainings rarely show it) or "possible".
        text: one sentence that says what it is, with layers and values.
        action: what to do, in one short sentence; empty if there is nothing to do.
        until: step of the result at which it no longer held; None as long as it holds.

    Example:
        >>> finding = Finding(
        ...     kind="non_finite",
        ...     layers=("fc",),
        ...     since=400,
        ...     step=600,
        ...     evidence={"fc": {"skip_reason": "non_finite"}},
        ...     confidence="certain",
        ...     text="fc holds NaN or infinite weights since step 400.",
        ...     action="Go back to a checkpoint before that.",
        ... )
        >>> print(finding)
        fc holds NaN or infinite weights since step 400. Go back to a checkpoint before that.
        >>> finding.is_alarm, Finding.from_dict(finding.to_dict()) == finding
        (True, True)
    """

    kind: FindingKind
    layers: tuple[str, ...]
    since: int | None
    step: int | None
    evidence: Mapping[str, Mapping[str, Value]] = field(hash=False)
    confidence: Confidence
    text: str
    action: str = ""
    until: int | None = None

    @property
    def is_alarm(self) -> bool:
        """Whether it asks for something to be done now."""
        return self.kind in ALARMS

    def __str__(self) -> str:
        if self.until is not None:
            return shown_text(f"No longer so at step {self.until}: {self.text}", LONGEST_FINDING)
        return shown_text(f"{self.text} {self.action}".rstrip(), LONGEST_FINDING)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "layers": list(self.layers),
            "evidence": {layer: dict(columns) for layer, columns in self.evidence.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """The inverse of :meth:`to_dict`, also after a round trip through JSON.

        Raises:
            ValueError: the values are not those of a finding.
        """
        try:
            finding = cls(**{**values, "layers": tuple(values["layers"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"values: not those of a Finding: {type(error).__name__}: {error}") from error
        if finding.kind not in KINDS:
            raise ValueError(f"values: unknown kind {finding.kind!r}; the kinds are {', '.join(KINDS)}")
        if finding.confidence not in CONFIDENCES:
            raise ValueError(f"values: unknown confidence {finding.confidence!r}, expected one of {CONFIDENCES}")
        if not _has_types(finding):
            raise ValueError("values: not those of a Finding: texts, steps or evidence of a wrong type")
        return finding


def _has_types(finding: Finding) -> bool:
    """Whether the values, which may come from a file, have the types of a finding."""
    evidence: object = finding.evidence
    return (
        all(isinstance(each, str) for each in (finding.text, finding.action, *finding.layers))
        and all(each is None or is_count(each) for each in (finding.since, finding.step, finding.until))
        and isinstance(evidence, Mapping)
        and all(isinstance(each, Mapping) for each in evidence.values())
    )
