"""One monitor for all ranks of a Trainer, and the strategies that are not supported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ww_callbacks.lightning.base import Trainer
from ww_callbacks.lightning.loggers import logger_outputs
from ww_callbacks.monitor import Monitor, Published
from ww_callbacks.signals.signal import Signal
from ww_callbacks.torch.distributed import DistributedMonitor
from ww_callbacks.torch.ranks import Ranks

_UNSUPPORTED = "the weights of a model under {} cannot be watched: use {}"


@dataclass(kw_only=True, eq=False)
class TrainerMonitor(DistributedMonitor):
    """The monitor of one training. It is created when it starts, with a single broadcast.

    Args:
        trainer: its loggers get the results too; they are asked for on the first rank only.
        signals: attached before the start, by name, and whether training acts on each.
        state: of the checkpoint to resume from; empty for none.
        logger_steps: step of a snapshot → step of the loggers, where they differ.
    """

    trainer: Trainer = field(repr=False)
    signals: Mapping[str, tuple[Signal, bool | None]]
    state: Mapping[str, Any] = field(repr=False)
    logger_steps: Mapping[int, int] = field(repr=False)

    def _create(self) -> None:
        """Wait for the start."""

    def _make(self) -> None:
        outputs = [] if self.spool else [*self.outputs, *logger_outputs(self.trainer, self.logger_steps, self.prefix)]
        self.monitor = Monitor(self.model, **self.as_arguments() | {"outputs": outputs})
        for name, (signal, acts) in self.signals.items():
            self.monitor.attach(name, signal, acts=acts)
        self.monitor.load_state_dict(self.state)

    def _begin(self, step: int | None) -> tuple[int, Published]:
        self._make()
        return super()._begin(step)


def ranks_of(trainer: Trainer) -> Ranks:
    """The ranks of a training."""
    return Ranks(trainer.world_size, trainer.is_global_zero, trainer.strategy.broadcast)


def unsupported(strategy: Any) -> str:
    """Why the whole weights are not available with a strategy; empty if they are.

    Args:
        strategy: of a Trainer.
    """
    names = {cls.__name__ for cls in type(strategy).__mro__}
    if "FSDPStrategy" in names:
        return _UNSUPPORTED.format("FSDPStrategy (FSDP1)", "ModelParallelStrategy (FSDP2)")
    if getattr(strategy, "zero_stage_3", False):
        return _UNSUPPORTED.format("DeepSpeed's ZeRO stage 3", "stage 1 or 2, or ModelParallelStrategy (FSDP2)")
    return ""
