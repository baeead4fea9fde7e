"""The user's own metrics of a run, such as losses, for the curves beside alpha."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Group = Literal["loss", "quality", "rate", "other"]

MAX_POINTS = 2000
"""Points of a curve that the page gets; of more, every second one is dropped."""

_RATE = re.compile(r"(^|[/_.\- ])(lr|learning_rate)($|[/_.\- ])", re.IGNORECASE)
_QUALITY = re.compile(
    r"acc|auc|f1|bleu|rouge|precision|recall|error|perplexity|ppl|score|reward|(^|[/_])m?iou", re.IGNORECASE
)
_ORDER: tuple[Group, ...] = ("loss", "quality", "rate", "other")
_VALIDATION = re.compile(r"val|eval|test", re.IGNORECASE)


def group_of(name: str) -> Group:
    """What a metric is, by its name.

    Example:
        >>> [group_of(name) for name in ("train_loss", "validation: epoch_acc", "lr-Adam", "grad_norm")]
        ['loss', 'quality', 'rate', 'other']
    """
    if _RATE.search(name):
        return "rate"
    if "loss" in name.lower():
        return "loss"
    return "quality" if _QUALITY.search(name) else "other"


class Curve:
    """One metric of a run. Of a long one, every second point is dropped again and again.

    Args:
        name: of the metric.

    Example:
        >>> curve = Curve("val_loss")
        >>> for step in range(5000):
        ...     curve.add(step, 1.0, float(step))
        >>> len(curve.to_dict()["steps"]) <= 2000, curve.to_dict()["steps"][-1] > 4990
        (True, True)
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._points: list[tuple[float, float, float]] = []
        self._every = 1
        self._left = 0

    def add(self, step: float, value: float, wall_time: float) -> None:
        """Add a point. If steps go back, because a run was restarted, the later points replace the earlier ones.

        Args:
            step: at which it was measured.
            value: of the metric.
            wall_time: when it was measured, in seconds since the epoch.
        """
        while self._points and step <= self._points[-1][0]:
            self._points.pop()
        self._left -= 1
        if self._left > 0:
            return
        self._left = self._every
        self._points.append((step, value, wall_time))
        if len(self._points) > MAX_POINTS:
            del self._points[1::2]
            self._every *= 2

    @property
    def is_by_epoch(self) -> bool:
        """Whether its steps are epochs, as Keras writes them."""
        return self.name.rpartition(" ")[2].startswith("epoch_")

    def to_dict(self, steps: Sequence[float] = (), times: Sequence[float] = ()) -> dict[str, Any]:
        """Plain values, ready for JSON. A curve by epochs is placed by the times at which the steps were reached.

        Args:
            steps: of the reports of the run.
            times: when they were reached, in seconds since the epoch.
        """
        places = [point[0] for point in self._points]
        name = self.name
        if self.is_by_epoch and len(steps) > 1:
            places = np.interp([point[2] for point in self._points], times, steps).tolist()
            name = f"{self.name} (steps from its times)"
        values = [value if np.isfinite(value) else None for _, value, _ in self._points]
        return {"name": name, "group": group_of(self.name), "steps": places, "values": values}


def in_order(curves: Sequence[Curve]) -> list[Curve]:
    """Losses first, then other measures of quality, rates and the rest; validation before training.

    Example:
        >>> [curve.name for curve in in_order([Curve("lr"), Curve("train_loss"), Curve("val_loss")])]
        ['val_loss', 'train_loss', 'lr']
    """
    return sorted(
        curves, key=lambda curve: (_ORDER.index(group_of(curve.name)), not _VALIDATION.search(curve.name), curve.name)
    )
