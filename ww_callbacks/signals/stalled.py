"""Test whether a metric of the user, such as the validation loss, has stopped improving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

Mode = Literal["min", "max"]
MODES: tuple[str, ...] = get_args(Mode)


def is_stalled(values: Sequence[float], patience: int, mode: Mode = "min") -> bool:
    """Whether none of the last ``patience`` values is better than all values before.

    Args:
        values: values in order of time; a value that is not finite is never the best.
        patience: a positive number of values.
        mode: "min" if small values are good, "max" if large ones are.

    Returns:
        The result; False for ``patience`` values or fewer.

    Example:
        >>> is_stalled([2.0, 1.0, 1.1, 1.2], patience=2), is_stalled([2.0, 1.0, 1.1, 0.9], patience=2)
        (True, False)
    """
    if len(values) <= patience:
        return False
    costs = [(-value if mode == "max" else value) if math.isfinite(value) else math.inf for value in values]
    return min(costs[-patience:]) >= min(costs[:-patience])
