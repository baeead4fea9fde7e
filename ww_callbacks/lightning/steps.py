"""How many steps of a training are finished, and at which step its loggers are."""

from __future__ import annotations

import logging

from torch import nn

from ww_callbacks.lightning.base import Trainer, say


class TrainerSteps:
    """The finished optimizer steps of a training, which are those of ``trainer.global_step``.

    With manual optimization, ``global_step`` grows by one for each optimizer that steps, while loggers count batches.
    It stays 0 if the optimizers are used without Lightning's wrapper (``use_pl_optimizer=False``, or optimizers that
    ``configure_optimizers`` does not return). If the weights change all the same, batches are counted as steps.

    Attributes:
        by_batches: whether steps are batches, because the Trainer does not count.
    """

    def __init__(self) -> None:
        self.by_batches = False
        self._versions: list[int] | None = None  # while it is not known whether the Trainer counts

    def begin(self, trainer: Trainer, module: nn.Module) -> None:
        """Begin a training, which may be resumed."""
        is_open = _is_manual(trainer) and not trainer.global_step
        self.by_batches = is_open and _batches(trainer) > 0
        self._versions = _versions(module) if is_open and not self.by_batches else None

    def look(self, trainer: Trainer, module: nn.Module) -> None:
        """Look after a batch whether the Trainer counts the steps."""
        if self._versions is None:
            return
        if trainer.global_step:
            self._versions = None
        elif _versions(module) != self._versions:
            self.by_batches, self._versions = True, None
            say(
                trainer,
                "the weights change but trainer.global_step stays 0, because the optimizers are used without "
                "Lightning's wrapper: finished batches are counted as steps",
                logging.WARNING,
            )

    def now(self, trainer: Trainer) -> int:
        """The finished steps."""
        return _batches(trainer) if self.by_batches else int(trainer.global_step)

    def of_loggers(self, trainer: Trainer) -> int:
        """The step at which Lightning's loggers show what belongs to the weights of now."""
        return _batches(trainer) if _is_manual(trainer) else int(trainer.global_step)


def _is_manual(trainer: Trainer) -> bool:
    return not trainer.lightning_module.automatic_optimization


def _batches(trainer: Trainer) -> int:
    """Finished batches of all epochs."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)


def _versions(module: nn.Module) -> list[int]:
    """What torch counts up whenever a parameter is changed in place."""
    return [parameter._version for parameter in module.parameters()]
