"""The Keras callback that monitors spectra: results go to TensorBoard and the logs of every epoch."""

from __future__ import annotations

import math
import os
import sys
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from ww_callbacks.checks import arguments_of, check_flag
from ww_callbacks.keras.bar import bar_of, show
from ww_callbacks.keras.fit import nothing_to_end, when_left
from ww_callbacks.keras.steps import Steps
from ww_callbacks.monitor import Monitor, Published, crosses
from ww_callbacks.monitor.options import Options
from ww_callbacks.monitor.schedule import schedule
from ww_callbacks.report import History
from ww_callbacks.signals.rates import LEARNING_RATE

_BASELINE_TRIES = 2


_monitors: weakref.WeakKeyDictionary[keras.Model, weakref.ref[SpectralMonitor]] = weakref.WeakKeyDictionary()
"""The monitor of each model: a Keras callback cannot see the list of callbacks it is in."""


class _FitMonitor(Monitor):
    """A monitor for ``fit``: steps are batches until the counter of the optimizer is read."""

    steps_are_estimated = True


@keras.saving.register_keras_serializable(package="ww_callbacks")
@dataclass(kw_only=True, eq=False)
class SpectralMonitor(Options, keras.callbacks.Callback):  # type: ignore[misc]
    """Monitors the spectra of a model's weights during training.

    A snapshot of the weights is taken before the first step (the baseline; after it if the first call builds the
    model), whenever ``optimizer.iterations`` reaches or passes a multiple of ``every_n_steps``, and at the end. A
    worker process analyses it. The results go to TensorBoard in ``<log_dir>/ww``, beside the ``train`` and
    ``validation`` runs of Keras's own callback, and into the ``logs`` of every epoch, so that ``History``,
    ``CSVLogger``, ``EarlyStopping(monitor="ww/alpha", mode="min")``, ``ModelCheckpoint`` and ``ReduceLROnPlateau`` see
    them if they come after this callback in the list.

    The logs of an epoch hold what was known at its last snapshot step. The end of the first epoch waits for the first
    result (at most ``timeout`` seconds), so that every epoch has the same keys. A mean without a value is NaN.

    If ``optimizer.iterations`` does not move although the weights change, because ``train_step`` uses other optimizers,
    batches are counted as steps. A warning in the log says so once.

    The callback has no hook at the end of batches, so Keras keeps its asynchronous dispatch. On JAX the model's state
    is fetched once per snapshot and at no other batch.

    Args:
        every_n_steps: optimizer steps between snapshots; 200 if neither this nor ``every_n_epochs`` is given.
        every_n_epochs: epochs between snapshots, instead of steps.
        prog_bar: show ``ww/alpha`` in the progress bar of ``fit``.

    All other arguments are those of :class:`ww_callbacks.monitor.options.Options`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed; at the start of training: a pattern matches no layer.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((60,)), keras.layers.Dense(50), keras.layers.Dense(1)])
        >>> model.compile(loss="mse")
        >>> monitor = SpectralMonitor(every_n_steps=2)
        >>> history = model.fit(np.ones((32, 60)), np.ones((32, 1)), batch_size=8, callbacks=[monitor], verbose=0)
        >>> "ww/alpha" in history.history, monitor.history.steps[0], monitor.history.steps[-1]
        (True, 0, 4)
    """

    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    prog_bar: bool = False

    def __post_init__(self) -> None:
        keras.callbacks.Callback.__init__(self)
        self.every_n_steps = schedule(self.every_n_steps, self.every_n_epochs)
        super().__post_init__()
        check_flag("prog_bar", self.prog_bar)
        self.monitor: Monitor | None = None
        self._end_watch: Callable[[], None] = nothing_to_end
        self._bar: Any = None
        self._logged: Mapping[str, float] = {}
        self._watched: weakref.ref[Any] | None = None
        self._known: tuple[int | None, Mapping[str, float]] = (None, {})
        self._baselines_due = 0
        self._batch: int | None = None
        self._first_epoch: int | None = None
        self._ended_epoch: int | None = None
        self._steps = Steps()
        self._step = 0

    @property
    def history(self) -> History:
        """The reports of the current or last training, empty before the first."""
        return self.monitor.history if self.monitor is not None else History()

    @property
    def published(self) -> Published:
        """Metrics and verdicts of the current or last training, as of its last snapshot step."""
        return self.monitor.published if self.monitor is not None else Published()

    @property
    def step(self) -> int:
        """Finished steps counted so far: of the optimizer, or batches if the optimizer of the model does not count."""
        return self._step

    def set_model(self, model: Any) -> None:
        """Register this callback, so that other callbacks find it."""
        super().set_model(model)
        enter(model, self)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Create the monitor; the baseline is taken before the first step, when the model is built."""
        model, previous = self.model, self.monitor
        is_again = previous is not None and self._watched is not None and self._watched() is model
        self._steps = Steps(self._step if is_again and self._steps.by_batches else None)
        self._batch, self._first_epoch, self._ended_epoch, self._step = None, None, None, 0
        self._logged, self._known, self._baselines_due = {}, (None, {}), _BASELINE_TRIES
        if previous is not None:
            previous.close()
            if previous.history and is_again:
                self._known = (previous.history.steps[-1], previous.metrics)
        self._watched = weakref.ref(model)
        self.monitor = _FitMonitor(model, **self.as_arguments())
        self._end_watch()
        self._end_watch = when_left(sys._getframe(2), model, self.monitor.close)
        self._bar = bar_of(sys._getframe(2))
        self._show()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Count batches from here, because asking the optimizer at each batch would wait for the device."""
        self._first_epoch = epoch if self._first_epoch is None else self._first_epoch
        self._steps.begin_epoch(self.model)
        self._batch = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Take a snapshot if one is due; the weights are those after all finished steps."""
        self.arrive(batch)

    def arrive(self, batch: int) -> None:
        """Start a batch; called by the first callback in the list that needs it.

        Args:
            batch: as Keras counts it, from 0 in each epoch.
        """
        if self.monitor is None or batch == self._batch:
            return
        self._batch = batch
        if self._baselines_due:
            self._take_baseline(self.monitor)
        self._step = self._steps.estimate(batch)
        if self.monitor.is_due(self._step):
            self._step = self._steps.measure(self.model, batch)  # on JAX `model` fetches the state
            self._record_rate(self.monitor)
            self.monitor.step(self._step)
            self._show()
        else:
            self.monitor.step(self._step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the means to the logs of the epoch."""
        self.end_epoch(epoch)
        if logs is not None:
            logs.update(self._logged)

    def end_epoch(self, epoch: int) -> None:
        """End an epoch; called by the first callback in the list that needs it.

        Args:
            epoch: as Keras counts it, from 0.
        """
        if self.monitor is None or epoch == self._ended_epoch:
            return
        self._ended_epoch = epoch
        self._steps.end_epoch(self._batches_of_epoch())
        self._measure(self.monitor)
        if self.monitor.is_due(self._step):
            self._record_rate(self.monitor)
        self.monitor.step(self._step)
        if self.every_n_epochs is not None and crosses(epoch, epoch + 1, self.every_n_epochs):
            self.monitor.snapshot(self._step)
        if not self._logged:
            self.monitor.wait_for_first()
        if self.monitor.published.reports:  # the same keys in every epoch; without a value they are NaN
            self._logged = {**dict.fromkeys(self._logged, math.nan), **self.monitor.metrics}
        self._show()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Take the last snapshot and wait for late results."""
        self.finish()

    def finish(self) -> None:
        """End training; called by the first callback in the list that needs it."""
        if self.monitor is not None:
            self._measure(self.monitor)
            self.monitor.finish(self._step)
        self._end_watch()
        self._bar = None

    def get_config(self) -> dict[str, Any]:
        """The arguments as plain values, without functions, outputs and external executors."""
        executor = [] if isinstance(self.executor, str) else ["executor"]
        return plain_arguments(self, without=["on_result", "outputs", *executor])

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SpectralMonitor:
        """The inverse of :meth:`get_config`."""
        return cls(**config)

    def __getstate__(self) -> dict[str, Any]:
        """Copies do not share the monitor."""
        return self.__dict__ | {"monitor": None, "_watched": None, "_end_watch": nothing_to_end, "_bar": None}

    def _show(self) -> None:
        if self._bar is not None:
            alpha = self.published.metrics.get(self.alpha_key) if self.prog_bar else None
            show(self._bar, self.prefix, {} if alpha is None else {self.alpha_key: alpha})

    def _take_baseline(self, monitor: Monitor) -> None:
        """Take the baseline before the first step; try again after it if the first call builds the model."""
        self._baselines_due -= 1
        step = self._step = self._steps.begin(
            self.model, self._batch or 0, expected=(self._first_epoch or 0) * (self._steps_of_epoch or 0)
        )
        monitor.start(step, baseline=False)
        known_step, known_metrics = self._known
        if step > 0 and step == known_step:  # a second fit continues where the first one ended
            self._baselines_due, self._logged = 0, dict(known_metrics)
            return
        self._record_rate(monitor)
        monitor.snapshot(step)
        if monitor.has_snapshot:
            self._baselines_due = 0
        if not monitor.closed:
            self._steps.remember(self.model)

    def _measure(self, monitor: Monitor) -> None:
        """Read how many steps are finished, between epochs."""
        if not monitor.closed:
            self._step = self._steps.measure(self.model, 0)

    @property
    def _steps_of_epoch(self) -> int | None:
        """Batches of an epoch, where Keras knows it."""
        return (self.params or {}).get("steps")

    def _batches_of_epoch(self) -> int:
        """Finished batches of an epoch that ends: all that have begun.

        Where Keras does not know how many there are, JAX and TensorFlow begin one more, and find that there is none.
        """
        if self._batch is None:
            return 0
        if self._steps_of_epoch is None and keras.backend.backend() != "torch" and not self._model.stop_training:
            return self._batch
        begun = self._batch + int(self._model.steps_per_execution)
        return min(begun, self._steps_of_epoch or begun)

    def _record_rate(self, monitor: Monitor) -> None:
        """Record the largest learning rate at a snapshot, for the rules that have to know it."""
        rates = self._steps.learning_rates(self.model)
        if rates:
            monitor.record(LEARNING_RATE, max(rates), self._step)


def enter(model: keras.Model, monitor: SpectralMonitor) -> None:
    """Register ``monitor`` as the monitor of ``model``."""
    _monitors[model] = weakref.ref(monitor)


def monitor_of(model: keras.Model) -> SpectralMonitor | None:
    """The SpectralMonitor of a model, at any position in the list of callbacks.

    Args:
        model: in training, as a callback sees it.
    """
    found = _monitors.get(model)
    return found() if found is not None else None


def source_of(follower: keras.callbacks.Callback, source: SpectralMonitor | None) -> SpectralMonitor:
    """The SpectralMonitor that a callback follows in this training.

    Call it at the beginning of the first epoch, when all callbacks have started.

    Args:
        follower: the callback.
        source: given by the user; None for the monitor in the same list.

    Raises:
        ValueError: no SpectralMonitor, or not ``source``, is among the callbacks of this ``fit``.
    """
    found = source or monitor_of(follower._model)
    if found is None or found.monitor is None or found.params is not follower.params:
        who = type(follower).__name__
        here = "source: the monitor" if source is not None else f"{who} needs a SpectralMonitor, which"
        raise ValueError(f"{here} is not among the callbacks of fit: callbacks=[SpectralMonitor(), {who}()]")
    return found


def plain_arguments(callback: Any, *, without: Collection[str]) -> dict[str, Any]:
    """The arguments of a callback as values for a configuration file.

    Args:
        callback: a callback that is a dataclass.
        without: arguments to leave out.
    """
    arguments = arguments_of(callback)
    return {name: _plain(value) for name, value in arguments.items() if name not in without}


def _plain(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value


def check_source(source: object) -> None:
    """Check that a source is a SpectralMonitor of Keras or None.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(source, SpectralMonitor | None):
        raise TypeError(f"source: expected a SpectralMonitor of ww_callbacks.keras or None, got {source!r}")
