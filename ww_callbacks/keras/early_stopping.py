"""The callback that ends a training when the spectra say so."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from ww_callbacks.checks import check_choice, check_count, check_flag, warn
from ww_callbacks.keras.copies import Copies
from ww_callbacks.keras.follower import FollowerCallback
from ww_callbacks.keras.monitor import SpectralMonitor
from ww_callbacks.signals.rules import MIN_DELTA, PATIENCE, RuleName
from ww_callbacks.signals.stalled import Mode
from ww_callbacks.signals.stop import ACTIONS, DEFAULT_RULES, VERDICT, Action, EarlyStopping, stop_message
from ww_callbacks.weights import find_layers

_log = logging.getLogger("ww_callbacks")


@keras.saving.register_keras_serializable(package="ww_callbacks")
class SpectralEarlyStopping(FollowerCallback):
    """Ends a training, or warns, when the spectra that a :class:`SpectralMonitor` finds say so.

    ``ww/stop/<rule>`` in TensorBoard and the logs is at every result how far a rule is towards a stop, 0 to 1. A
    verdict takes effect at a snapshot step (one more batch is trained, as Keras looks after each batch) or at the end
    of training; the reason says which step's weights were judged, and when the verdict came. It is printed once,
    unless ``fit`` is silent (``verbose=0``).

    Results are late, so the weights at the stop are not those that were judged. With ``restore_best_weights=True``
    complete copies of the weights are kept in memory, ``keep`` times their size, and the model gets back those of the
    last result before the ``patience`` results that led to the stop. With ``and_monitor`` it gets back those of the
    epoch where that metric was best, and one copy is kept. The optimizer's state is not restored.

    Attributes:
        stopped_reason: why training was ended or the warning given; empty before.
        stopped_step: the optimizer step at which the verdict came; None before.
        restored_step: the step whose weights were restored; None where none were.

    Args:
        rules: any of "plateau" (the mean alpha has fallen and does not fall any more), "traps" (a layer has large
            correlation traps that last) and "overtrained" (a layer's alpha stays below 2; it stops only together with
            traps that last, or with a stalled ``and_monitor``).
        patience: results in a row that have to support a stop, and values of ``and_monitor`` without a new best.
        min_delta: a fall of the mean alpha by less than this while the number of steps doubles counts as none.
        start_after: results of this optimizer step and earlier ones support nothing.
        layers: patterns of the layers that are looked at, ``"!pattern"`` to leave out; None for all.
        mode: "stop" ends the training, "warn" only says that it would.
        and_monitor: a metric in the logs of the epochs, such as "val_loss", that must have stalled too; None for none.
        and_mode: "min" where small values of that metric are good, "max" where large ones are.
        restore_best_weights: whether the model gets earlier weights back when training is ended.
        keep: how many copies of the weights are kept for that; None for ``patience`` + 2.
        source: the monitor to follow, where several are in the list; None for the last of them.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a value that is not allowed, such as an unknown rule; at the start of training: no
            SpectralMonitor, or not ``source``, is among the callbacks, or a pattern matches no layer.

    Example:
        >>> callbacks = [SpectralMonitor(every_n_steps=50), SpectralEarlyStopping(and_monitor="val_loss")]
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
        restore_best_weights: bool = False,
        keep: int | None = None,
        source: SpectralMonitor | None = None,
    ) -> None:
        super().__init__(source)
        check_choice("mode", mode, ACTIONS)
        check_flag("restore_best_weights", restore_best_weights)
        if restore_best_weights and mode == "warn":
            raise ValueError('restore_best_weights: mode="warn" ends no training, so nothing is restored')
        if keep is not None:
            check_count("keep", keep)
        self._mode, self._restores, self._keep = mode, restore_best_weights, keep
        self._signal = EarlyStopping(
            rules=rules,
            patience=patience,
            min_delta=min_delta,
            start_after=start_after,
            layers=layers,
            and_monitor=and_monitor,
            and_mode=and_mode,
        )
        self._copies = Copies(1)
        self._best: float | None = None
        self._has_complained = False
        self.stopped_reason = ""
        self.stopped_step: int | None = None
        self.restored_step: int | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget an earlier training."""
        super().on_train_begin(logs)
        rules = self._signal.rules
        count = 1 if rules.and_monitor is not None else self._keep or rules.patience + 2
        self._copies, self._best, self._has_complained = Copies(count), None, False
        self.stopped_reason, self.stopped_step, self.restored_step = "", None, None

    def named_signal(self) -> tuple[str, EarlyStopping]:
        """The signal to attach, and its name."""
        return VERDICT, self._signal

    def check_model(self) -> None:
        """Raise an error if a pattern matches no layer."""
        found = find_layers(self._model)
        if not any(layer.is_late for layer in found):
            self._signal.rules.check_layers([layer.name for layer in found])

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Act on a verdict that has come."""
        if self._source is not None:
            self._source.arrive(batch)
            self._act(self._source)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the metric that must have stalled too; act where epochs are counted."""
        if self._source is not None:
            self._source.end_epoch(epoch)
            self._note(self._source, epoch, logs or {})
            self._act(self._source)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """A verdict may have come with the last results; give the best weights back."""
        if self._source is None:
            return
        self._source.finish()
        self._act(self._source)
        if self._restores and self.stopped_reason:
            self._restore(self._source)
        self._copies.clear()

    def get_config(self) -> dict[str, Any]:
        """The arguments as plain values; ``source`` is not among them."""
        rules = self._signal.rules
        names = ("patience", "min_delta", "start_after", "and_monitor", "and_mode")
        own = {"mode": self._mode, "restore_best_weights": self._restores, "keep": self._keep}
        lists = {"rules": list(rules.rules), "layers": None if rules.layers is None else list(rules.layers)}
        return {name: getattr(rules, name) for name in names} | lists | own

    def __getstate__(self) -> dict[str, Any]:
        """Copies do not share the monitor and the weights."""
        return super().__getstate__() | {"_copies": Copies(1)}

    def _act(self, source: SpectralMonitor) -> None:
        """Once a training: end it, or warn. Before that, keep the weights of a new snapshot."""
        if self.stopped_reason:
            return
        if self._restores and self._signal.rules.and_monitor is None:
            self._keep_snapshot(source)
        published = source.published
        verdict = published.verdicts.get(VERDICT)
        if not verdict or not verdict["stop"]:
            return
        self.stopped_reason, self.stopped_step = stop_message(verdict, published.step), published.step
        if self._mode == "warn":
            warn(f"training could end: {self.stopped_reason}")
            return
        self._model.stop_training = True
        self._say(f"{type(self).__name__} ends the training. {self.stopped_reason}")

    def _keep_snapshot(self, source: SpectralMonitor) -> None:
        """A copy at each step at which the monitor takes one: on JAX the state of the model is there then."""
        step = source.monitor.last_snapshot if source.monitor is not None else None
        if step is not None and step == source.step and step not in self._copies.steps:
            self._copies.take(self.model, step)

    def _note(self, source: SpectralMonitor, epoch: int, logs: Mapping[str, Any]) -> None:
        name = self._signal.rules.and_monitor
        if name is None or source.monitor is None:
            return
        if name not in logs:
            self._complain_about(name, epoch, logs)
            return
        value = float(logs[name])
        source.monitor.record(name, value, source.step)
        better = self._best is None or (value < self._best) == (self._signal.rules.and_mode == "min")
        if self._restores and math.isfinite(value) and value != self._best and better:
            self._best = value
            self._copies.take(self.model, source.step)

    def _complain_about(self, name: str, epoch: int, logs: Mapping[str, Any]) -> None:
        if not self._has_complained:
            self._has_complained = True
            warn(
                f"and_monitor: {name!r} is not in the logs of epoch {epoch + 1}; nothing ends this training unless it "
                f"comes later; there are {sorted(key for key in logs if not key.startswith('ww/'))}"
            )

    def _restore(self, source: SpectralMonitor) -> None:
        """The last result before the judged streak; with ``and_monitor`` the only copy, that of its best value."""
        steps = [step or 0 for step in source.history.steps]
        judged = source.published.verdicts[VERDICT]["step"]
        wanted = steps[max(steps.index(judged) - self._signal.rules.patience, 0)]
        self.restored_step = self._copies.restore(self.model, wanted)
        if self.restored_step is None:
            warn("restore_best_weights: there is no copy of the weights, they stay what they are")
        elif self._signal.rules.and_monitor is None and self.restored_step != wanted:
            warn(
                f"restore_best_weights: the weights of step {wanted} are not kept any more, those of step "
                f"{self.restored_step} were restored; a larger keep keeps more"
            )
        else:
            self._say(f"The weights of step {self.restored_step} were restored.")

    def _say(self, message: str) -> None:
        if (self.params or {}).get("verbose"):
            print(message)
        else:
            _log.info(message)
