"""Snapshots that were due and were not taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

MANY_SHARE = 0.2
"""Share of the snapshots above which so many are missed that the user is told."""

MANY_LEAST = 5
"""Fewer missed snapshots are never many."""


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
        >>> Missed(skipped=3, over_budget=2).are_many(taken=10), Missed(skipped=4).are_many(taken=1)
        (True, False)
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

    @property
    def total(self) -> int:
        """How many are missed, for either reason."""
        return self.skipped + self.over_budget

    def are_many(self, taken: int) -> bool:
        """Whether more than a fifth of the snapshots is missed, and at least five.

        Args:
            taken: snapshots that were taken.
        """
        return self.total >= MANY_LEAST and self.total > MANY_SHARE * (self.total + taken)

    def message(self, taken: int) -> str:
        """How many are missed, why, and what to do.

        Args:
            taken: snapshots that were taken.

        Example:
            >>> Missed(over_budget=2).message(taken=3)
            '2 of 5 snapshots have no results: 2 because the budget was used up (raise budget= or every_n_steps)'
        """
        reasons = {
            f"{self.skipped} because too many others were pending (raise every_n_steps, analyse fewer layers with "
            "layers=, leave the analysis a core, or let training wait with deterministic=True)": self.skipped,
            f"{self.over_budget} because the budget was used up (raise budget= or every_n_steps)": self.over_budget,
        }
        why = ", ".join(reason for reason, count in reasons.items() if count)
        return f"{self.total} of {self.total + taken} snapshots have no results: {why}"
