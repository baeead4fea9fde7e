"""Whether a learning rate that has fallen explains why the weights no longer change."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEARNING_RATE = "learning_rate"
"""Name under which the history records the learning rate."""

DECAYED = 0.5
"""A learning rate has decayed if it is below this share of its largest value in the run."""


def decay_words(rates: Sequence[tuple[int | None, float]]) -> str:
    """How far the learning rate has fallen, in words; empty if it has not, or is not known.

    Args:
        rates: steps and learning rates in order of time; those that are not finite are left out.

    Example:
        >>> decay_words([(0, 0.001), (100, 0.1), (200, 0.1), (300, 0.01)])
        'the learning rate fell from 0.1 to 0.01 since step 200'
        >>> decay_words([(0, 0.001), (100, 0.1)])
        ''
    """
    known = [(step, rate) for step, rate in rates if math.isfinite(rate)]
    if not known:
        return ""
    largest = max(rate for _, rate in known)
    if known[-1][1] >= DECAYED * largest:
        return ""
    since = [step for step, rate in known if rate == largest][-1]
    where = "" if since is None else f" since step {since}"
    return f"the learning rate fell from {largest:.3g} to {known[-1][1]:.3g}{where}"
