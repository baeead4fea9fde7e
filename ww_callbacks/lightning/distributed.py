"""One rank watches, and every rank knows the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from ww_callbacks.lightning.base import Trainer

T = TypeVar("T")


def on_first_rank(trainer: Trainer, action: Callable[[], T]) -> T:
    """Run ``action`` on the first rank and give what it returns to all: one broadcast of plain values.

    It is collective: every rank has to call it, at the same places.

    Args:
        trainer: whose ranks take part.
        action: called on the first rank only; it must not be collective itself.

    Returns:
        What ``action`` returned on the first rank.

    Raises:
        Exception: on the first rank what ``action`` raised; on the others a RuntimeError that tells it. So no rank
            waits for one that has failed.
    """
    if trainer.world_size == 1:
        return action()
    answer: Any = None
    failure: Exception | None = None
    if trainer.is_global_zero:
        try:
            answer = action()
        except Exception as error:
            failure = error
    told = "" if failure is None else f"{type(failure).__name__}: {failure}"
    answer, told = trainer.strategy.broadcast((answer, told), src=0)
    if failure is not None:
        raise failure
    if told:
        raise RuntimeError(f"ww_callbacks failed on the first rank: {told}")
    return cast(T, answer)
