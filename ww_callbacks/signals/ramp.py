"""Ratios that change gradually over several steps, so that learning rates do not jump."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ww_callbacks.checks import check_count
from ww_callbacks.report.columns import is_count, is_number


class Ramp:
    """Moves each layer's ratio linearly in the optimizer steps from its current value to a target.

    Source: LLR (2026), which changes the learning rates over 50 steps.

    Args:
        steps: number of steps to reach the target; 0 to jump there.

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
        """Set new target ratios, starting from the ratios of this step. Nothing happens if the target is unchanged.

        Args:
            target: ratio by layer name; a layer without an entry has ratio 1.
            step: number of finished optimizer steps.
        """
        if dict(target) != self._target:
            self._start, self._target, self._since = self.at(step), dict(target), step

    def at(self, step: int) -> dict[str, float]:
        """The ratios after ``step`` finished optimizer steps."""
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
        """Restore the state of a checkpoint.

        Raises:
            ValueError: it is not the state of a ramp; the ramp stays as it is.
        """
        try:
            start, target, since = dict(state["start"]), dict(state["target"]), state["since"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state: not that of a ramp: {type(error).__name__}: {error}") from error
        are_texts = all(isinstance(name, str) for name in (*start, *target))
        are_ratios = all(is_number(ratio) and ratio > 0 for ratio in (*start.values(), *target.values()))
        if not (is_count(since) and are_texts and are_ratios):
            raise ValueError("state: not that of a ramp: expected a step and positive ratios by name")
        self._start, self._target, self._since = start, target, since
