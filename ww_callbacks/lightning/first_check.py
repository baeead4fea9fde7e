"""Callbacks and schedulers that check one of our metrics: their first check must wait for the first result.

The answers depend on the prefix of our metrics and on the callbacks and schedulers of the trainer alone, so they are
the same on every rank.
"""

from __future__ import annotations

from typing import Any

from ww_callbacks.lightning.base import Trainer


def anybody_checks(trainer: Trainer, prefix: str) -> bool:
    """Whether a callback or a learning-rate scheduler of this run checks one of our metrics."""
    return any(_checks(watcher, prefix) for watcher in [*trainer.callbacks, *trainer.lr_scheduler_configs])


def scheduler_checks_steps(trainer: Trainer, prefix: str) -> bool:
    """Whether a learning-rate scheduler checks one of our metrics after each step."""
    return any(config.interval == "step" and _checks(config, prefix) for config in trainer.lr_scheduler_configs)


def checkpoint_checks_batches(trainer: Trainer, prefix: str) -> bool:
    """Whether a ModelCheckpoint checks one of our metrics between the ends of validations and epochs."""
    between = ("_every_n_train_steps", "_train_time_interval")
    return any(
        _checks(callback, prefix) and any(getattr(callback, name, None) for name in between)
        for callback in trainer.checkpoint_callbacks
    )


def _checks(watcher: Any, prefix: str) -> bool:
    return str(getattr(watcher, "monitor", "")).startswith(f"{prefix}/")
