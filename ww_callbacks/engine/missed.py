"""Snapshots that were due and were not taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class Missed:
    """How many snapshots were missed, and for which reason.

    Attributes:
        skipped: no slot was free.
        over_budget: the budget was used up.
        last: of the last one, its step and the reason, one of the two names above.

    Example:
        >>> missed = Missed().at(10, "skipped").at(10, "skipped").at(20, "over_budget")
        >>> missed.skipped, missed.over_budget, missed.made_up(20).over_budget
        (1, 1, 0)
    """

    skipped: int = 0
    over_budget: int = 0
    last: tuple[int, str] | None = None

    def at(self, step: int, reason: Literal["skipped", "over_budget"]) -> Missed:
        """One more is missed; a step is counted once, with its latest reason."""
        before = self.made_up(step)
        return replace(before, last=(step, reason), **{reason: getattr(before, reason) + 1})

    def made_up(self, step: int) -> Missed:
        """The snapshot of this step is taken after all."""
        if self.last is None or self.last[0] != step:
            return self
        reason = self.last[1]
        return replace(self, last=None, **{reason: getattr(self, reason) - 1})
