"""The callback that sets per-layer learning rates or weight decays."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from ww_callbacks.checks import arguments_of, warn
from ww_callbacks.keras.fit import nothing_to_end, when_left
from ww_callbacks.keras.follower import FollowerCallback
from ww_callbacks.keras.layers import owners_of, partners_of
from ww_callbacks.keras.layerwise import OptimizerRatios, ratios_in, save_plainly
from ww_callbacks.signals.learning_rate import LayerRatios, LayerwiseOptions, Quantity, RatioOptions, ratios_at
from ww_callbacks.signals.partners import holder_of, module_ratios
from ww_callbacks.signals.ramp import Ramp
from ww_callbacks.signals.taking_part import announce
from ww_callbacks.weights import find_layers


@keras.saving.register_keras_serializable(package="ww_callbacks")
@dataclass(kw_only=True, eq=False)
class LayerwiseLearningRate(FollowerCallback, LayerwiseOptions):
    """Sets per-layer learning rates from the alphas of a :class:`SpectralMonitor`.

    By default the ratios are only logged, as ``ww_layer/lr_ratio/…`` in TensorBoard. With ``apply=True`` and an
    optimizer prepared by :func:`layerwise`, each layer is updated at its own rate; ``optimizer.learning_rate``,
    schedules and other callbacks see the common rate. The log says once which layers take part and why the others keep
    ratio 1; if no ratio can change, a warning says so. Ratios change at snapshot steps only, and are reset to 1 when
    ``fit`` ends.

    The callback finds the monitor at any position in the list. On JAX the state of the model is fetched at each step at
    which ratios change: ``ramp_steps`` of them after a result.

    The arguments are ``source``, the monitor to follow if there are several in the list (None for the last of them),
    ``verbose`` (0 to print no messages) and those of :class:`ww_callbacks.signals.learning_rate.LayerwiseOptions`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed; at the start of training: no SpectralMonitor is among
            the callbacks, ``apply`` without :func:`layerwise`, or a pattern matches no layer.

    Example:
        >>> import numpy as np
        >>> from ww_callbacks.keras import SpectralMonitor, layerwise
        >>> model = keras.Sequential([keras.Input((60,)), *(keras.layers.Dense(60) for _ in range(4))])
        >>> model.compile(layerwise(keras.optimizers.SGD(0.01)), loss="mse")
        >>> monitor = SpectralMonitor(every_n_steps=2)
        >>> x = np.random.default_rng(0).standard_normal((64, 60))
        >>> # These layers are random: without shrink=False their ratios are 1.
        >>> callbacks = [monitor, LayerwiseLearningRate(apply=True, shrink=False)]
        >>> history = model.fit(x, x, batch_size=8, callbacks=callbacks, verbose=0)
        >>> sorted(monitor.monitor.lr_ratios().values())
        [0.5, 1.0, 1.0, 1.5]
    """

    def __post_init__(self) -> None:
        FollowerCallback.__post_init__(self)
        LayerwiseOptions.__post_init__(self)
        self._partners: dict[str, str] = {}  # known once the model is complete
        self._signal = LayerRatios(**arguments_of(self, RatioOptions), partners=self._partners)
        self._ramp = Ramp(self.ramp_steps)
        self._steering: Steering | None = None
        self._announces = False
        self._end_watch: Callable[[], None] = nothing_to_end

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Prepare the optimizer."""
        super().on_train_begin(logs)
        self._ramp = Ramp(self.ramp_steps)
        self._partners.clear()
        self._end()
        if self.apply:
            self._steering, self._announces = Steering(self.model, self.quantity), True
            self._end_watch = when_left(sys._getframe(2), self.model, self._steering.reset)

    def named_signal(self) -> tuple[str, LayerRatios]:
        """The signal to attach, and its name."""
        return self._signal.name, self._signal

    @property
    def acts(self) -> bool:
        """Whether training depends on the ratios."""
        return self.apply

    def check_model(self) -> None:
        """Raise an error if a pattern matches no layer; warn of layers that are not trained."""
        _check_held(self.model, self._signal)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Set the ratios of this step."""
        if self._source is None:
            return
        self._source.arrive(batch)
        if not self._partners:
            self._partners.update(partners_of(self._model))
        if self._steering is not None:
            self._steering.look()
            step, verdicts = self._source.step, self._source.published.verdicts
            if self._announces:
                say = partial(self.say, begins="\n")
                self._announces = not announce(self.quantity, verdicts.get(self._signal.name, {}), say)
            ratios = ratios_at(step, self._signal, self._ramp, verdicts)
            if self._steering.differs(ratios):
                self._steering.steer(self.model, ratios)  # on JAX `model` fetches the state

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Reset the optimizer."""
        self._end()

    def __getstate__(self) -> dict[str, Any]:
        """Copies do not share the monitor and the optimizer."""
        return super().__getstate__() | {"_steering": None, "_end_watch": nothing_to_end}

    def _end(self) -> None:
        self._end_watch()
        steering, self._steering = self._steering, None
        if steering is not None:
            steering.reset()


class Steering:
    """The current ratios in the optimizer of one training.

    Args:
        model: the model in training.
        quantity: "learning_rate" or "weight_decay".

    Raises:
        ValueError: the optimizer of the model was not prepared by :func:`layerwise`.
    """

    def __init__(self, model: keras.Model, quantity: Quantity) -> None:
        self._parts: list[OptimizerRatios] = ratios_in(model.optimizer)
        if not self._parts:
            raise ValueError(
                "apply: the optimizer does not know of ratios; compile the model with "
                f"layerwise(keras.optimizers.{type(model.optimizer).__name__}(…)) from ww_callbacks.keras"
            )
        save_plainly(model.optimizer)  # Keras may have put one around it that scales the loss
        self._quantity = quantity
        self._at_work: dict[str, float] = {}
        self._is_unproven = False
        self.reset()

    def differs(self, ratios: dict[str, float]) -> bool:
        """Whether these ratios differ from the current ones."""
        return _other_than_one(ratios) != self._at_work

    def steer(self, model: keras.Model, ratios: dict[str, float]) -> None:
        """Use other ratios in the next updates.

        Args:
            model: the model, with its current state.
            ratios: ratio by layer name; a layer without an entry has ratio 1.
        """
        self._at_work = _other_than_one(ratios)
        owners = owners_of(model)
        by_layer = module_ratios(set(owners.values()), ratios)
        for part in self._parts:
            if part.trained:
                part.set(self._quantity, [by_layer.get(owners.get(id(v), ""), 1.0) for v in part.trained])
        self._is_unproven = not any(part.used for part in self._parts)

    def look(self) -> None:
        """Warn once if the step after a change did not use the ratios."""
        if self._is_unproven and not any(part.used for part in self._parts):
            warn("the ratios change nothing: the model was compiled before layerwise(optimizer); compile it again")
        self._is_unproven = False

    def reset(self) -> None:
        """Set every layer to the common rate."""
        for part in self._parts:
            part.reset(self._quantity)


def _other_than_one(ratios: dict[str, float]) -> dict[str, float]:
    return {name: ratio for name, ratio in ratios.items() if ratio != 1}


def _check_held(model: keras.Model, signal: LayerRatios) -> None:
    """Check that the patterns match layers; warn about layers that are not trained."""
    found = find_layers(model)
    if any(layer.is_late for layer in found):
        return
    names = signal.choose([layer.name for layer in found if layer.spec is not None])
    owners = owners_of(model)
    trained = {owners[id(variable)] for variable in model.trainable_variables if id(variable) in owners}
    missing = [name for name in names if holder_of(name, set(owners.values())) not in trained]
    if missing:
        warn(
            f"the layers {missing} are not trained, their ratios change nothing; leave them out with "
            'layers=["!name"] so that they do not count'
        )
