"""The ranks of a Trainer, and strategies under which no whole weights are to be had."""

from __future__ import annotations

from typing import Any

from ww_callbacks.lightning.base import Trainer
from ww_callbacks.torch.ranks import Ranks

_UNSUPPORTED = "the weights of a model under {} cannot be watched: use {}"


def ranks_of(trainer: Trainer) -> Ranks:
    """The processes that take part in a training."""
    return Ranks(trainer.world_size, trainer.is_global_zero, trainer.strategy.broadcast)


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
