"""Ratios that move to their new value over some steps, so that no layer's rate jumps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ww_callbacks.checks import check_count


class Ramp:
    """The way of each layer's ratio from where it is to where it shall be, linear in the optimizer steps.

    Source: LLR (2026), which moves the learning rates over 50 steps.

    Args:
        steps: how many the way takes; 0 for none.

    Raises:
        TypeError: ``steps`` is not a whole number.
        ValueError: it is negative.

    Example:
        >>> ramp = Ramp(10)
        >>> ramp.aim({"fc": 1.5}, step=100)
        >>> [ramp.at(step)["fc"] for step in (100, 105, 110, 500)]
        [1.0, 1.25, 1.5, 1.5]
    """

    def __init__(self, steps: int) -> None:
        check_count("ramp_steps", steps, least=0)
        self._steps = steps
        self._start: dict[str, float] = {}
        self._target: dict[str, float] = {}
        self._since = 0

    def aim(self, target: Mapping[str, float], step: int) -> None:
        """Set out for new ratios, from those of this step; nothing where they are the old ones.

        Args:
            target: ratio by layer; a layer without one has 1.
            step: finished optimizer steps.
        """
        if dict(target) != self._target:
            self._start, self._target, self._since = self.at(step), dict(target), step

    def at(self, step: int) -> dict[str, float]:
        """The ratios after so many finished optimizer steps."""
        done = step - self._since
        if done >= self._steps:
            return dict(self._target)
        share = max(done, 0) / self._steps
        return {
            name: (1 - share) * self._start.get(name, 1.0) + share * self._target.get(name, 1.0)
            for name in self._start | self._target
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"start": dict(self._start), "target": dict(self._target), "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._start, self._target, self._since = dict(state["start"]), dict(state["target"]), state["since"]
