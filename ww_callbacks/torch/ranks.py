"""Ranks: the first one acts, and all of them get the result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from torch import distributed, nn

from ww_callbacks.weights.torch.sharded import follow, is_sharded, leading, reshard

T = TypeVar("T")


class LostRanksError(RuntimeError):
    """A message did not reach the other ranks, or none came from the first one: a rank has ended, for example."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of a training, as seen from one of them.

    Attributes:
        size: their number.
        is_first: whether this is the first one.
        broadcast: called on all ranks; returns the argument of the first rank on all of them.
    """

    size: int
    is_first: bool
    broadcast: Callable[[Any], Any]

    @classmethod
    def of_torch(cls) -> Ranks:
        """The ranks of torch's default process group; a single one without a group.

        Example:
            >>> Ranks.of_torch().size
            1
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls(1, True, lambda message: message)
        return cls(distributed.get_world_size(), distributed.get_rank() == 0, _broadcast)


def on_first_rank(ranks: Ranks, model: nn.Module, action: Callable[[], T]) -> T:
    """Run ``action`` on the first rank and return its result on all ranks: one broadcast of plain values.

    If the weights are sharded, each weight that the action reads is gathered by all ranks when it is read, one at a
    time, and kept by the first rank only. That takes one more broadcast of a number per weight.

    This call is collective: every rank has to make it, at the same place.

    Args:
        ranks: the ranks that take part.
        model: the action may read its weights.
        action: called on the first rank only; it must not be collective itself.

    Returns:
        The result of ``action`` on the first rank.

    Raises:
        Exception: if ``action`` raises: its exception on the first rank, and a RuntimeError with the same message on
            the others, so that no rank waits for one that has failed.
        LostRanksError: a message between the ranks failed.

    Example:
        >>> on_first_rank(Ranks.of_torch(), nn.Linear(2, 2), lambda: 5)
        5
    """
    reshard(model)
    if ranks.size == 1:
        return action()
    return _lead(ranks, model, action) if ranks.is_first else _follow(ranks, model)


def _lead(ranks: Ranks, model: nn.Module, action: Callable[[], T]) -> T:
    answer: Any = None
    failure: Exception | None = None
    try:
        with leading(model, ranks.broadcast) if any(map(is_sharded, model.parameters())) else nullcontext():
            answer = action()
    except Exception as error:
        failure = error
    _send(ranks, (answer, "" if failure is None else f"{type(failure).__name__}: {failure}"))
    if failure is not None:
        raise failure
    return cast(T, answer)


def _follow(ranks: Ranks, model: nn.Module) -> Any:
    while isinstance(message := _send(ranks, None), int):
        follow(model, message)
    answer, failure = message
    if failure:
        raise RuntimeError(f"ww_callbacks failed on the first rank: {failure}")
    return answer


def _send(ranks: Ranks, message: Any) -> Any:
    try:
        return ranks.broadcast(message)
    except RuntimeError as error:  # those of torch.distributed are of this class
        raise LostRanksError(str(error)) from error


def _broadcast(message: Any) -> Any:
    messages = [message]
    distributed.broadcast_object_list(messages, src=0)
    return messages[0]
