"""The callback that stops training early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ww_callbacks.checks import arguments_of, check_choice, check_flag, warn
from ww_callbacks.lightning.base import Callback, Trainer, say
from ww_callbacks.lightning.monitor import SpectralMonitor, check_source, monitor_of
from ww_callbacks.report.columns import is_count
from ww_callbacks.signals.stop import (
    ACTIONS,
    AUTO,
    VERDICT,
    Action,
    EarlyStopping,
    StopRules,
    progress_message,
    stop_message,
)
from ww_callbacks.weights import find_layers

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule


@dataclass(kw_only=True, eq=False)
class SpectralEarlyStopping(StopRules, Callback):
    """Stops training early, or warns, based on the spectra from a :class:`SpectralMonitor`.

    ``ww/stop/<rule>`` in the loggers is the progress of each rule towards a stop, 0 to 1. A verdict takes effect at a
    snapshot step (or at the end of training), on all ranks at the same step. The reason begins with the rule, the step
    whose weights were judged and the step of the stop; it is printed once. If nothing ended the training, one line at
    the end says how near each rule was. A training that resumes from a checkpoint, or a second ``fit``, continues with
    the results so far, and is stopped by a new result only.

    With ``mode="stop"``, training waits at each snapshot for the results of the one before, so that the same run is
    stopped at the same step on a busy machine too; ``SpectralMonitor(deterministic=False)`` switches that off.

    Attributes:
        stopped_reason: why training was stopped or the warning given; empty before.
        stopped_step: the optimizer step at which the verdict arrived; None before.

    Args:
        mode: "stop" to stop training, "warn" to warn only.
        and_monitor: a logged metric that must have stalled too; "auto" for "val_loss" if it is logged, which the rules
            wait for if there is a validation loop; None for none.
        source: the monitor to follow; None for the first SpectralMonitor among the callbacks.
        verbose: log why training was stopped or how near each rule was, with Lightning's logger. False only keeps
            ``stopped_reason``. A warning of ``mode="warn"`` is always given.

    All other arguments are those of :class:`ww_callbacks.signals.stop.StopRules`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed, such as an unknown rule; at the start of training: no
            SpectralMonitor, or not ``source``, is among the callbacks, or a pattern matches no layer.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> callbacks = [SpectralMonitor(every_n_steps=50), SpectralEarlyStopping(and_monitor="val_loss")]
        >>> trainer = Trainer(callbacks=callbacks, logger=False)
    """

    mode: Action = "stop"
    source: SpectralMonitor | None = None
    verbose: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, ACTIONS)
        check_source(self.source)
        check_flag("verbose", self.verbose)
        self._signal = EarlyStopping(**arguments_of(self, StopRules))
        self._started_at: int | None = None  # the step; None while there is nothing to do
        self._validated = self._has_warned = False
        self.stopped_reason = ""
        self.stopped_step: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the monitor, at any position in the list."""
        if stage == "fit" and not (trainer.fast_dev_run or trainer.barebones):
            self._monitor(trainer).attach(VERDICT, self._signal, acts=self.mode == "stop")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the patterns match layers."""
        if trainer.fast_dev_run or trainer.barebones:
            return
        self.check_layers([layer.name for layer in find_layers(pl_module)])
        self._started_at = self._monitor(trainer).first_step(trainer, pl_module)
        self._validated = not trainer.enable_validation
        self._signal.awaits_metric = self.and_monitor == AUTO and trainer.enable_validation

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act on a new verdict."""
        self._act(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the metric ``and_monitor``."""
        if self._started_at is not None and not trainer.sanity_checking:
            self._validated, self._signal.awaits_metric = True, False
            self._note(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record a metric that is logged without validation; act if snapshots are taken by epoch."""
        if self._started_at is not None and not trainer.enable_validation:
            self._note(trainer)
        if self._validated:
            self._warn_missing_metric(trainer)
        self._act(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act on a verdict from the last results."""
        self._act(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Act again: a monitor later in the list receives the last results only now. Say how near the rules were."""
        if stage == "fit":
            self._act(trainer)
            self._say_progress(trainer)
            self._started_at = None

    @property
    def state_key(self) -> str:
        """Separate states for the callbacks of several monitors."""
        return f"{type(self).__qualname__}{{'source': {self.source and self.source.state_key!r}}}"

    def state_dict(self) -> dict[str, Any]:
        """Why and when training was stopped, as plain values."""
        return {"stopped_reason": self.stopped_reason, "stopped_step": self.stopped_step}

    def load_state_dict(self, state_dict: Any) -> None:
        """Restore why and when the training of the checkpoint was stopped; a state of another form is left out."""
        state = state_dict if isinstance(state_dict, Mapping) else {}
        reason, step = state.get("stopped_reason"), state.get("stopped_step")
        if isinstance(reason, str) and (step is None or is_count(step)):
            self.stopped_reason, self.stopped_step = reason, step
        else:
            warn(f"state: not that of {type(self).__name__}, it is left out")

    def _act(self, trainer: Trainer) -> None:
        """Stop or warn, once per training. A verdict that a second training inherits from the first is ignored."""
        published = self._monitor(trainer).published if self._started_at is not None else None
        verdict = published.verdicts.get(VERDICT) if published is not None else None
        if published is None or not verdict or not verdict["stop"] or (published.step or 0) <= (self._started_at or 0):
            return
        self._started_at = None
        self.stopped_reason = stop_message(verdict, published.step, self.mode)
        self.stopped_step = published.step
        if self.mode == "stop":
            trainer.should_stop = True
            self._say(trainer, f"{type(self).__name__} ends the training. {self.stopped_reason}")
        elif trainer.is_global_zero:
            warn(f"training could end: {self.stopped_reason}")

    def _say_progress(self, trainer: Trainer) -> None:
        """Say how near each rule was, if none has ended this training."""
        if self._started_at is None:
            return
        verdict = self._monitor(trainer).published.verdicts.get(VERDICT, {})
        done = "did not end this training" if self.mode == "stop" else "gave no warning in this training"
        self._say(trainer, f"{type(self).__name__} {done}. {progress_message(verdict)}")

    def _say(self, trainer: Trainer, message: str) -> None:
        if self.verbose:
            say(trainer, message)

    def _note(self, trainer: Trainer) -> None:
        """Record the values of the first rank, which judges."""
        source = self._monitor(trainer)
        monitor, step = source.monitor, source.step_of(trainer)
        for name in self.metric_names:
            if monitor is not None and name in trainer.callback_metrics:
                monitor.record(name, float(trainer.callback_metrics[name]), step)

    def _warn_missing_metric(self, trainer: Trainer) -> None:
        name = self.and_monitor
        if name is None or name == AUTO or name in trainer.callback_metrics or self._has_warned:
            return
        self._has_warned = True
        if trainer.is_global_zero:
            warn(
                f"and_monitor: {name!r} is not logged, so nothing will end this training; logged are "
                f"{sorted(trainer.callback_metrics)}"
            )

    def _monitor(self, trainer: Trainer) -> SpectralMonitor:
        return monitor_of(trainer, type(self).__name__, self.source)
