"""When a snapshot is due."""

from __future__ import annotations

from ww_callbacks.checks import check_count

DEFAULT_EVERY_N_STEPS = 200


def schedule(every_n_steps: int | None, every_n_epochs: int | None) -> int | None:
    """The steps between snapshots: 200 if neither steps nor epochs are given, None if epochs are.

    Raises:
        TypeError: ``every_n_epochs`` is not a whole number.
        ValueError: both are given, or ``every_n_epochs`` is smaller than 1.
    """
    if every_n_epochs is None:
        return DEFAULT_EVERY_N_STEPS if every_n_steps is None else every_n_steps
    check_count("every_n_epochs", every_n_epochs)
    if every_n_steps is not None:
        raise ValueError(f"every_n_steps, every_n_epochs: give one of them, got {every_n_steps} and {every_n_epochs}")
    return None


def crosses(last: int, step: int, every: int) -> bool:
    """Whether a multiple of ``every`` lies after ``last``, up to and including ``step``.

    Example:
        >>> [crosses(last, step, 10) for last, step in [(8, 9), (9, 10), (10, 10), (8, 12)]]
        [False, True, False, True]
    """
    return step // every > last // every
