"""The callback that stops training early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from ww_callbacks.checks import arguments_of, check_choice, check_count, check_flag, warn
from ww_callbacks.keras.copies import Copies
from ww_callbacks.keras.follower import FollowerCallback
from ww_callbacks.keras.monitor import SpectralMonitor
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


@keras.saving.register_keras_serializable(package="ww_callbacks")
@dataclass(kw_only=True, eq=False)
class SpectralEarlyStopping(FollowerCallback, StopRules):
    """Stops training early, or warns, based on the spectra from a :class:`SpectralMonitor`.

    ``ww/stop/<rule>`` in TensorBoard and the logs is the progress of each rule towards a stop, 0 to 1. A verdict takes
    effect at a snapshot step (one more batch is trained, because Keras checks after each batch) or at the end of
    training. The reason begins with the rule, the step whose weights were judged and the step of the stop. It is
    printed once, unless ``fit`` is silent (``verbose=0``). If nothing ended the training, one line at the end says how
    near each rule was.

    With ``mode="stop"``, training waits at each snapshot for the results of the one before, so that the same run is
    stopped at the same step on a busy machine too; ``SpectralMonitor(deterministic=False)`` switches that off.

    Results arrive late, so the weights at the stop are not those that were judged. With ``restore_best_weights=True``,
    ``keep`` full copies of the weights are kept in memory, and the model gets back those of the last result before the
    ``patience`` results that led to the stop. With ``and_monitor`` it gets back those of the epoch with the best value
    of that metric, and one copy is kept. The optimizer's state is not restored.

    Attributes:
        stopped_reason: why training was stopped or the warning given; empty before.
        stopped_step: the optimizer step at which the verdict arrived; None before.
        restored_step: the step whose weights were restored; None if none were.

    Args:
        mode: "stop" to stop training, "warn" to warn only.
        and_monitor: a metric in the logs of the epochs that must have stalled too; "auto" for "val_loss" if it is in
            them, which the rules wait for in the first of several epochs; None for none.
        restore_best_weights: whether to restore earlier weights when training is stopped.
        keep: number of copies of the weights to keep for that; None for ``patience`` + 2.

    All other arguments are ``source``, the monitor to follow if there are several in the list (None for the last of
    them), ``verbose`` (0 to print no messages) and those of :class:`ww_callbacks.signals.stop.StopRules`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed, such as an unknown rule; at the start of training: no
            SpectralMonitor, or not ``source``, is among the callbacks, or a pattern matches no layer.

    Example:
        >>> callbacks = [SpectralMonitor(every_n_steps=50), SpectralEarlyStopping(and_monitor="val_loss")]
    """

    mode: Action = "stop"
    restore_best_weights: bool = False
    keep: int | None = None

    def __post_init__(self) -> None:
        FollowerCallback.__post_init__(self)
        StopRules.__post_init__(self)
        check_choice("mode", self.mode, ACTIONS)
        check_flag("restore_best_weights", self.restore_best_weights)
        if self.restore_best_weights and self.mode == "warn":
            raise ValueError('restore_best_weights: mode="warn" ends no training, so nothing is restored')
        if self.keep is not None:
            check_count("keep", self.keep)
        self._signal = EarlyStopping(**arguments_of(self, StopRules))
        self._copies = Copies(1)
        self._best: float | None = None
        self._metric = None if self.and_monitor == AUTO else self.and_monitor
        self._has_warned = False
        self.stopped_reason = ""
        self.stopped_step: int | None = None
        self.restored_step: int | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Reset the state of an earlier training."""
        super().on_train_begin(logs)
        self._metric = None if self.and_monitor == AUTO else self.and_monitor
        self._signal.awaits_metric = self.and_monitor == AUTO and self.params.get("epochs", 1) > 1
        count = 1 if self._metric is not None else self.keep or self.patience + 2
        self._copies, self._best, self._has_warned = Copies(count), None, False
        self.stopped_reason, self.stopped_step, self.restored_step = "", None, None

    def named_signal(self) -> tuple[str, EarlyStopping]:
        """The signal to attach, and its name."""
        return VERDICT, self._signal

    @property
    def acts(self) -> bool:
        """Whether training depends on the verdict."""
        return self.mode == "stop"

    def check_model(self) -> None:
        """Raise an error if a pattern matches no layer."""
        found = find_layers(self._model)
        if not any(layer.is_late for layer in found):
            self.check_layers([layer.name for layer in found])

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Act on a new verdict."""
        if self._source is not None:
            self._source.arrive(batch)
            self._act(self._source)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the metric ``and_monitor``; act if snapshots are taken by epoch."""
        if self._source is not None:
            self._source.end_epoch(epoch)
            self._note(self._source, epoch, logs or {})
            self._act(self._source)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Act on a verdict from the last results; restore the best weights."""
        if self._source is None:
            return
        self._source.finish()
        self._act(self._source)
        if not self.stopped_reason:
            self._say_progress(self._source)
        elif self.restore_best_weights:
            self._restore(self._source)
        self._copies.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Copies do not share the monitor and the weights."""
        return super().__getstate__() | {"_copies": Copies(1)}

    def _act(self, source: SpectralMonitor) -> None:
        """Stop or warn, once per training. Before that, keep the weights of a new snapshot."""
        if self.stopped_reason:
            return
        if self.restore_best_weights and self._metric is None:
            self._keep_snapshot(source)
        published = source.published
        verdict = published.verdicts.get(VERDICT)
        if not verdict or not verdict["stop"]:
            return
        self.stopped_reason = stop_message(verdict, published.step, self.mode)
        self.stopped_step = published.step
        if self.mode == "warn":
            warn(f"training could end: {self.stopped_reason}")
            return
        self._model.stop_training = True
        self.say(f"{type(self).__name__} ends the training. {self.stopped_reason}", begins="\n")

    def _say_progress(self, source: SpectralMonitor) -> None:
        """Say how near each rule was."""
        done = "did not end this training" if self.mode == "stop" else "gave no warning in this training"
        self.say(f"{type(self).__name__} {done}. {progress_message(source.published.verdicts.get(VERDICT, {}))}")

    def _keep_snapshot(self, source: SpectralMonitor) -> None:
        """Copy the weights at snapshot steps only, because on JAX the state of the model is fetched then."""
        step = source.monitor.last_snapshot if source.monitor is not None else None
        if step is not None and step == source.step and step not in self._copies.steps:
            self._copies.take(self.model, step)

    def _note(self, source: SpectralMonitor, epoch: int, logs: Mapping[str, Any]) -> None:
        self._signal.awaits_metric = False
        if self.and_monitor == AUTO and self._metric is None:
            self._metric = next((name for name in self.metric_names if name in logs), None)
            if self._metric is not None:  # the best value decides from now on, not the snapshot
                self._copies = Copies(1)
        name = self._metric
        if name is None or source.monitor is None:
            return
        if name not in logs:
            self._warn_missing_metric(name, epoch, logs)
            return
        value = float(logs[name])
        source.monitor.record(name, value, source.step)
        better = self._best is None or (value < self._best) == (self.and_mode == "min")
        if self.restore_best_weights and math.isfinite(value) and value != self._best and better:
            self._best = value
            self._copies.take(self.model, source.step)

    def _warn_missing_metric(self, name: str, epoch: int, logs: Mapping[str, Any]) -> None:
        if not self._has_warned:
            self._has_warned = True
            warn(
                f"and_monitor: {name!r} is not in the logs of epoch {epoch + 1}; nothing ends this training unless it "
                f"comes later; there are {sorted(key for key in logs if '/' not in key)}"
            )

    def _restore(self, source: SpectralMonitor) -> None:
        """Restore the last result before the judged streak, or with a metric the copy of its best value."""
        steps = [step or 0 for step in source.history.steps]
        judged = source.published.verdicts[VERDICT]["step"]
        wanted = steps[max(steps.index(judged) - self.patience, 0)]
        self.restored_step = self._copies.restore(self.model, wanted)
        if self.restored_step is None:
            warn("restore_best_weights: there is no copy of the weights, they stay what they are")
        elif self._metric is None and self.restored_step != wanted:
            warn(
                f"restore_best_weights: the weights of step {wanted} are not kept any more, those of step "
                f"{self.restored_step} were restored; a larger keep keeps more"
            )
        else:
            self.say(f"The weights of step {self.restored_step} were restored.")
