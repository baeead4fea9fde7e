"""Whether a metric that the user measures, such as the validation loss, has stopped improving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

Mode = Literal["min", "max"]
MODES: tuple[str, ...] = get_args(Mode)


def is_stalled(values: Sequence[float], patience: int, mode: Mode = "min") -> bool:
    """Whether the last ``patience`` values brought nothing better than what was there before.

    Args:
        values: in the order of time; one that is not finite is never the best.
        patience: a positive number of values.
        mode: "min" where small values are good, "max" where large ones are.

    Returns:
        False while there are not more than ``patience`` values.

    Example:
        >>> is_stalled([2.0, 1.0, 1.1, 1.2], patience=2), is_stalled([2.0, 1.0, 1.1, 0.9], patience=2)
        (True, False)
    """
    if len(values) <= patience:
        return False
    costs = [(-value if mode == "max" else value) if math.isfinite(value) else math.inf for value in values]
    return min(costs[-patience:]) >= min(costs[:-patience])
