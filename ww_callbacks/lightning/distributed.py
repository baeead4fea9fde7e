"""One rank watches, and every rank knows the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar, cast

from torch import nn

from ww_callbacks.lightning.base import Trainer
from ww_callbacks.weights.torch_sharded import follow, is_sharded, leading, reshard

T = TypeVar("T")

_UNSUPPORTED = "the weights of a model under {} cannot be watched: use {}"


def on_first_rank(trainer: Trainer, model: nn.Module, action: Callable[[], T]) -> T:
    """Run ``action`` on the first rank and give what it returns to all: one broadcast of plain values.

    Where ranks hold parts of the weights, each weight that the action reads is gathered by all ranks when it is read,
    one at a time; only the first one keeps it. That takes a further broadcast of a number per weight.

    It is collective: every rank has to call it, at the same places.

    Args:
        trainer: whose ranks take part.
        model: whose weights the action may read.
        action: called on the first rank only; it must not be collective itself.

    Returns:
        What ``action`` returned on the first rank.

    Raises:
        Exception: on the first rank what ``action`` raised; on the others a RuntimeError that tells it. So no rank
            waits for one that has failed.
    """
    reshard(model)
    if trainer.world_size == 1:
        return action()
    sharded = any(map(is_sharded, model.parameters()))
    return _lead(trainer, model, sharded, action) if trainer.is_global_zero else _follow(trainer, model)


def unsupported(strategy: Any) -> str:
    """Why a strategy leaves no whole weights to look at; empty where it does.

    Args:
        strategy: of a Trainer.
    """
    names = {cls.__name__ for cls in type(strategy).__mro__}
    if "FSDPStrategy" in names:
        return _UNSUPPORTED.format("FSDPStrategy (FSDP1)", "ModelParallelStrategy (FSDP2)")
    if getattr(strategy, "zero_stage_3", False):
        return _UNSUPPORTED.format("DeepSpeed's ZeRO stage 3", "stage 1 or 2, or ModelParallelStrategy (FSDP2)")
    return ""


def _lead(trainer: Trainer, model: nn.Module, sharded: bool, action: Callable[[], T]) -> T:
    answer: Any = None
    failure: Exception | None = None
    try:
        with leading(model, lambda number: _send(trainer, number)) if sharded else nullcontext():
            answer = action()
    except Exception as error:
        failure = error
    _send(trainer, (answer, "" if failure is None else f"{type(failure).__name__}: {failure}"))
    if failure is not None:
        raise failure
    return cast(T, answer)


def _follow(trainer: Trainer, model: nn.Module) -> Any:
    while isinstance(message := _send(trainer, None), int):
        follow(model, message)
    answer, told = message
    if told:
        raise RuntimeError(f"ww_callbacks failed on the first rank: {told}")
    return answer


def _send(trainer: Trainer, message: Any) -> Any:
    """What the first rank sends, on all."""
    return trainer.strategy.broadcast(message, src=0)
