"""What a follower is asked to do: which checkpoints are found, and how they are analysed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ww_callbacks.analysis import Settings
from ww_callbacks.weights import Split
from ww_callbacks.worker.submits import Submits


@dataclass(frozen=True, slots=True)
class Work:
    """How checkpoints are found and analysed.

    Attributes:
        patterns: of the names of checkpoints.
        layers: patterns of the layers to analyse; None for all.
        split: how to split fused projections.
        settings: settings of the analysis.
        updates: whether layers are compared with the previous and the first checkpoint.
        workers: number of worker processes.
        executor: runs the tasks in place of worker processes.
        progress: whether to show a progress bar in a terminal.
    """

    patterns: Sequence[str] = ()
    layers: Sequence[str] | None = None
    split: Split | None = None
    settings: Settings = field(default_factory=Settings)
    updates: bool = False
    workers: int = 1
    executor: Submits | None = None
    progress: bool = False

    def stated(self) -> dict[str, object]:
        """What the results depend on, as plain values."""
        layers = None if self.layers is None else list(self.layers)
        return {"layers": layers, "split": self.split, "updates": self.updates, **self.settings.to_dict()}
