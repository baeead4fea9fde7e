"""State restored when a run resumes from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ww_callbacks.engine import Missed
from ww_callbacks.monitor.publishing import Published
from ww_callbacks.report import History


@dataclass(frozen=True, slots=True)
class Resumed:
    """A monitor at the moment of a checkpoint.

    Attributes:
        step: finished optimizer steps.
        last_snapshot: step of the last snapshot; its results may not have been in.
        missed: snapshots missed so far.
        history: the reports that were in.
        published: what was known at the last snapshot step.
    """

    step: int
    last_snapshot: int | None
    missed: Missed
    history: History
    published: Published

    @property
    def last_report(self) -> int | None:
        """Step of the last snapshot whose results were in."""
        return self.history.steps[-1] if len(self.history) else None

    def is_snapshot_due(self, step: int, every: int | None) -> bool:
        """Whether a resumed run starts with a snapshot: results were lost, or one has become due since.

        Args:
            step: finished optimizer steps when the run resumes.
            every: steps between snapshots, None if they are not scheduled by steps.

        Example:
            >>> known = Resumed(12, 10, Missed(), History(), Published())
            >>> known.is_snapshot_due(12, every=10)  # of step 10 there is no report
            True
        """
        lost = self.last_report is None or self.last_report != self.last_snapshot
        return lost or (every is not None and step // every > self.step // every)

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "step": self.step,
            "last_snapshot": self.last_snapshot,
            "skipped": self.missed.skipped,
            "over_budget": self.missed.over_budget,
            "history": self.history.state_dict(),
            "late": self.history.seen - self.published.reports,
            "published": asdict(self.published),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Resumed:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: ``state`` is not of that form.
        """
        try:
            history = History.from_state_dict(state["history"])
            reports = history.seen - int(state["late"])
            published = Published(**state["published"] | {"reports": reports})
            missed = Missed(int(state["skipped"]), int(state["over_budget"]))
            return cls(int(state["step"]), state["last_snapshot"], missed, history, published)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"state: not that of a monitor: {type(error).__name__}: {error}") from error
