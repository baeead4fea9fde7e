"""A limit of the CPU time that the analysis may take."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD_START = 60.0
"""Seconds of training for which a share is granted in advance, so that the first snapshot need not wait."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit of the CPU time of the analysis; one of the two attributes is None.

    Attributes:
        share: of one core, averaged over the run so far.
        seconds: for each snapshot.
    """

    share: float | None = None
    seconds: float | None = None

    def allowance(self, elapsed: float, spent: float) -> float:
        """CPU seconds that the next snapshot may cost.

        Args:
            elapsed: seconds of training so far.
            spent: CPU seconds that the analysis took so far.

        Example:
            >>> Budget(share=0.05).allowance(elapsed=140.0, spent=4.0), Budget(seconds=30.0).allowance(140.0, 4.0)
            (6.0, 30.0)
        """
        if self.seconds is not None:
            return self.seconds
        assert self.share is not None
        return self.share * (HEAD_START + elapsed) - spent


def parse_budget(value: object) -> Budget | None:
    """A ``budget=`` argument: None, a share of one core as a number, or seconds per snapshot as a string.

    Raises:
        TypeError: it is neither a number nor a string.
        ValueError: the share is not in (0, 1], or the string is not a positive number followed by "s".

    Example:
        >>> parse_budget(0.05), parse_budget("30s")
        (Budget(share=0.05, seconds=None), Budget(share=None, seconds=30.0))
    """
    expected = 'a share of one core in (0, 1] such as 0.05, seconds per snapshot such as "30s", or None'
    if value is None:
        return None
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*s\s*", value)
        if not found or float(found[1]) <= 0:
            raise ValueError(f"budget: expected {expected}, got {value!r}")
        return Budget(seconds=float(found[1]))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"budget: expected {expected}, got {value!r}")
    if not 0 < value <= 1:
        raise ValueError(f"budget: expected {expected}, got {value!r}")
    return Budget(share=float(value))
