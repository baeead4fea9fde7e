"""The callback that ends a training when the spectra say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ww_callbacks.checks import check_choice, warn
from ww_callbacks.lightning.base import Callback, Trainer, log
from ww_callbacks.lightning.monitor import SpectralMonitor, monitor_of
from ww_callbacks.signals.rules import MIN_DELTA, PATIENCE, RuleName
from ww_callbacks.signals.stalled import Mode
from ww_callbacks.signals.stop import ACTIONS, DEFAULT_RULES, VERDICT, Action, EarlyStopping, stop_message
from ww_callbacks.weights import find_layers

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule


class SpectralEarlyStopping(Callback):
    """Ends a training, or warns, when the spectra that a :class:`SpectralMonitor` finds say so.

    ``ww/stop/<rule>`` in the loggers is at every result how far a rule is towards a stop, 0 to 1. A verdict takes
    effect at a snapshot step (or at the end of training), on all ranks at the same one; the reason says which step's
    weights were judged, and when the verdict came. It is printed once. A training that goes on from a checkpoint, or a
    second ``fit``, goes on with the results so far, and is ended by a result of its own only.

    Attributes:
        stopped_reason: why training was ended or the warning given; empty before.
        stopped_step: the optimizer step at which the verdict came; None before.

    Args:
        rules: any of "plateau" (the mean alpha has fallen and does not fall any more), "traps" (a layer has large
            correlation traps that last) and "overtrained" (a layer's alpha stays below 2; it stops only together with
            traps that last, or with a stalled ``and_monitor``).
        patience: results in a row that have to support a stop, and values of ``and_monitor`` without a new best.
        min_delta: a fall of the mean alpha by less than this while the number of steps doubles counts as none.
        start_after: results of this optimizer step and earlier ones support nothing.
        layers: patterns of the layers that are looked at, ``"!pattern"`` to leave out; None for all.
        mode: "stop" ends the training, "warn" only says that it would.
        and_monitor: a logged metric, such as "val_loss", that must have stalled too; None for none.
        and_mode: "min" where small values of that metric are good, "max" where large ones are.
        source: the monitor to follow; None for the first SpectralMonitor among the callbacks.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a value that is not allowed, such as an unknown rule; at the start of training: no
            SpectralMonitor, or not ``source``, is among the callbacks, or a pattern matches no layer.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> callbacks = [SpectralMonitor(every_n_steps=50), SpectralEarlyStopping(and_monitor="val_loss")]
        >>> trainer = Trainer(callbacks=callbacks, logger=False)
    """

    def __init__(
        self,
        *,
        rules: Sequence[RuleName] = DEFAULT_RULES,
        patience: int = PATIENCE,
        min_delta: float = MIN_DELTA,
        start_after: int = 0,
        layers: list[str] | None = None,
        mode: Action = "stop",
        and_monitor: str | None = None,
        and_mode: Mode = "min",
        source: SpectralMonitor | None = None,
    ) -> None:
        check_choice("mode", mode, ACTIONS)
        if not isinstance(source, SpectralMonitor | None):
            raise TypeError(f"source: expected a SpectralMonitor of ww_callbacks.lightning or None, got {source!r}")
        self._mode, self._source = mode, source
        self._signal = EarlyStopping(
            rules=rules,
            patience=patience,
            min_delta=min_delta,
            start_after=start_after,
            layers=layers,
            and_monitor=and_monitor,
            and_mode=and_mode,
        )
        self._started_at: int | None = None  # the step; None while there is nothing to do
        self._validated = self._has_complained = False
        self.stopped_reason = ""
        self.stopped_step: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the monitor, wherever it stands in the list."""
        if stage == "fit" and not (trainer.fast_dev_run or trainer.barebones):
            self._monitor(trainer).attach(VERDICT, self._signal)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complain about patterns that match nothing."""
        if trainer.fast_dev_run or trainer.barebones:
            return
        self._signal.rules.check_layers([layer.name for layer in find_layers(pl_module)])
        self._started_at, self._validated = int(trainer.global_step), not trainer.enable_validation

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act on a verdict that has come."""
        self._act(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the metric that must have stalled too."""
        if self._started_at is not None and not trainer.sanity_checking:
            self._validated = True
            self._note(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note a metric that is logged without validation; act where epochs are counted."""
        if self._started_at is not None and not trainer.enable_validation:
            self._note(trainer)
        if self._validated:
            self._complain_about_missing(trainer)
        self._act(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A verdict may have come with the last results."""
        self._act(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Also where the monitor stands behind in the list and has only now got the last results."""
        if stage == "fit":
            self._act(trainer)
            self._started_at = None

    def state_dict(self) -> dict[str, Any]:
        """Why and when training was ended, as plain values."""
        return {"stopped_reason": self.stopped_reason, "stopped_step": self.stopped_step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Remember why and when the training of the checkpoint was ended."""
        self.stopped_reason, self.stopped_step = state_dict["stopped_reason"], state_dict["stopped_step"]

    def _act(self, trainer: Trainer) -> None:
        """Once a training: end it, or warn. A verdict that a second training inherits from the first is an old one."""
        published = self._monitor(trainer).published if self._started_at is not None else None
        verdict = published.verdicts.get(VERDICT) if published is not None else None
        if published is None or not verdict or not verdict["stop"] or (published.step or 0) <= (self._started_at or 0):
            return
        self._started_at = None
        self.stopped_reason, self.stopped_step = stop_message(verdict, published.step), published.step
        if self._mode == "stop":
            trainer.should_stop = True
        if trainer.is_global_zero and self._mode == "stop":
            log.info(f"{type(self).__name__} ends the training. {self.stopped_reason}")
        elif trainer.is_global_zero:
            warn(f"training could end: {self.stopped_reason}")

    def _note(self, trainer: Trainer) -> None:
        """The first rank judges, so its value counts."""
        name, monitor = self._signal.rules.and_monitor, self._monitor(trainer).monitor
        if name is not None and monitor is not None and name in trainer.callback_metrics:
            monitor.record(name, float(trainer.callback_metrics[name]), int(trainer.global_step))

    def _complain_about_missing(self, trainer: Trainer) -> None:
        name = self._signal.rules.and_monitor
        if name is None or name in trainer.callback_metrics or self._has_complained:
            return
        self._has_complained = True
        if trainer.is_global_zero:
            warn(
                f"and_monitor: {name!r} is not logged, so nothing will end this training; logged are "
                f"{sorted(trainer.callback_metrics)}"
            )

    def _monitor(self, trainer: Trainer) -> SpectralMonitor:
        return monitor_of(trainer, type(self).__name__, self._source)
