"""Per-variable learning rates and weight decays in the updates of a Keras optimizer.

The ratios are a variable of the optimizer that a compiled training step reads, so that they can change while it runs.
The methods of the one optimizer are replaced, not its class: it is saved, loaded and configured as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from ww_callbacks.signals.learning_rate import QUANTITIES

_ATTRIBUTE = "_ww_ratios"


def layerwise(optimizer: Any) -> Any:
    """Make an optimizer able to update each layer at its own rate; call it before ``compile``.

    The ratios are 1, and training is the same to the last bit, until a
    :class:`~ww_callbacks.keras.LayerwiseLearningRate` with ``apply=True`` changes them. ``optimizer.learning_rate``,
    schedules and callbacks see the common rate. What is saved is what the optimizer saves by itself, so a saved model
    can be loaded without this package; after loading, or if the model has been trained before, call this and
    ``compile`` again.

    Args:
        optimizer: an optimizer of Keras, including a ``MultiOptimizer`` and one that scales the loss.

    Returns:
        The same optimizer.

    Raises:
        TypeError: ``optimizer`` is not an optimizer of Keras but, for example, its name.
        ValueError: it is a ``MultiOptimizer`` that will find its optimizers later.

    Example:
        >>> model = keras.Sequential([keras.Input((60,)), keras.layers.Dense(1)])
        >>> model.compile(layerwise(keras.optimizers.Adam(1e-3)), loss="mse")
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"optimizer: expected an optimizer of Keras such as keras.optimizers.Adam(1e-3), got {optimizer!r}"
        )
    inner = inner_optimizers(optimizer)
    if not inner:
        raise ValueError(f"optimizer: {optimizer.name} finds its optimizers later, call layerwise for each of them")
    for each in inner:
        if not hasattr(each, _ATTRIBUTE):
            setattr(each, _ATTRIBUTE, OptimizerRatios(each))
        save_plainly(each)
    save_plainly(optimizer)
    return optimizer


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that update variables: the optimizer itself, or those that it wraps or distributes to."""
    if hasattr(optimizer, "inner_optimizer"):
        return inner_optimizers(optimizer.inner_optimizer)
    if hasattr(optimizer, "optimizers"):
        return [inner for each in optimizer.optimizers for inner in inner_optimizers(each)]
    return [optimizer]


def ratios_in(optimizer: Any) -> list[OptimizerRatios]:
    """The ratios of each optimizer prepared by :func:`layerwise`."""
    return [getattr(each, _ATTRIBUTE) for each in inner_optimizers(optimizer) if hasattr(each, _ATTRIBUTE)]


def save_plainly(optimizer: Any) -> None:
    """Make an optimizer, or its wrapper, save and load its variables without the ratios."""
    if optimizer.__dict__.get("save_own_variables") is not None:
        return
    load = optimizer.load_own_variables

    def own_variables() -> list[Any]:
        ratios = {id(each.variable) for each in ratios_in(optimizer)}
        return [variable for variable in optimizer.variables if id(variable) not in ratios]

    def save_own_variables(store: Any) -> None:
        for index, variable in enumerate(own_variables()):
            store[str(index)] = variable.numpy()

    def load_own_variables(store: Any) -> None:
        own = own_variables()
        if len(store.keys()) != len(own):
            load(store)  # which warns
            return
        for index, variable in enumerate(own):
            variable.assign(store[str(index)])

    optimizer.save_own_variables, optimizer.load_own_variables = save_own_variables, load_own_variables


class OptimizerRatios:
    """The ratios of one optimizer, applied in its methods.

    Args:
        optimizer: an optimizer that updates variables itself.

    Attributes:
        variable: rows are the quantities, columns the trainable variables; None until the optimizer is built.
        used: whether a training step used the ratios, compiled or not.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._build, self._rate = optimizer.build, optimizer._get_current_learning_rate
        self._decay, self._update = optimizer._apply_weight_decay, optimizer.update_step
        self._update_many = getattr(optimizer, "_parallel_update_step", None)  # of torch
        self._decay_ratio: Any = None
        self._values = np.ones((len(QUANTITIES), 0), np.float32)
        self.variable: Any = None
        self.used = False
        if optimizer.built:
            self._add_variable(len(optimizer._trainable_variables))
        optimizer.build, optimizer._get_current_learning_rate = self._building, self._decaying_rate
        optimizer._apply_weight_decay, optimizer.update_step = self._decaying, self._updating
        if self._update_many is not None:
            optimizer._parallel_update_step = self._updating_many

    @property
    def trained(self) -> list[Any]:
        """The variables that the optimizer trains, in its order; empty before it is built."""
        return self._optimizer._trainable_variables if self._optimizer.built else []

    def set(self, quantity: str, ratios: Sequence[float] | float) -> None:
        """Set the ratios of the next updates; on JAX the model must hold its current state.

        Args:
            quantity: "learning_rate" or "weight_decay".
            ratios: one per trained variable, or one for all.
        """
        self._values[QUANTITIES.index(quantity)] = ratios
        self.variable.assign(self._values)

    def reset(self, quantity: str) -> None:
        """Reset every ratio of a quantity to 1."""
        if not (self._values[QUANTITIES.index(quantity)] == 1).all():
            self.set(quantity, 1.0)

    @property
    def _is_plain(self) -> bool:
        return bool((self._values == 1).all())

    def _building(self, variables: Sequence[Any]) -> None:
        self._build(variables)
        if self.variable is None:
            self._add_variable(len(variables))

    def _add_variable(self, count: int) -> None:
        self._values = np.ones((len(QUANTITIES), count), np.float32)
        self.variable = self._optimizer.add_variable(
            self._values.shape, initializer="ones", dtype="float32", name="layer_ratios"
        )

    def _ratio(self, quantity: str, index: int) -> Any:
        """A number on torch, which does not compile the step; otherwise the variable that the compiled step reads."""
        row = QUANTITIES.index(quantity)
        return float(self._values[row, index]) if keras.backend.backend() == "torch" else self.variable[row, index]

    def _updating(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        ratio = self._ratio("learning_rate", self._optimizer._get_variable_index(variable))
        self.used = True
        self._update(gradient, variable, _times(learning_rate, ratio))

    def _updating_many(self, gradients: Sequence[Any], variables: Sequence[Any], learning_rate: Any) -> None:
        """Torch updates many variables at once: here all variables with the same ratio.

        A scalar that the optimizer counts for all variables together is counted once.
        """
        self.used = True
        if self._is_plain:
            self._update_many(gradients, variables, learning_rate)  # type: ignore[misc]
            return
        parts = self._by_ratio(variables, partial(self._ratio, "learning_rate"))
        counters = [v for v in self._optimizer.variables if not v.shape] if len(parts) > 1 else []
        before = [keras.ops.copy(counter.value) for counter in counters]
        for number, (ratio, positions) in enumerate(parts.items()):
            for counter, value in zip(counters, before if number else (), strict=False):
                counter.assign(value)
            chosen = [[values[position] for position in positions] for values in (gradients, variables)]
            self._update_many(*chosen, _times(learning_rate, ratio))  # type: ignore[misc]

    def _decaying(self, variables: Iterable[Any]) -> None:
        """The decay is rate × weight decay × weight, so both ratios apply."""
        optimizer, on_torch = self._optimizer, keras.backend.backend() == "torch"
        if on_torch and self._is_plain:
            self._decay(variables)
            return
        decayed = [variable for variable in variables if optimizer._use_weight_decay(variable)]
        try:
            if on_torch:
                for ratio, positions in self._by_ratio(decayed, self._decay_of).items():
                    self._decay_ratio = ratio
                    self._decay([decayed[position] for position in positions])
            else:
                for variable in decayed:
                    self._decay_ratio = self._decay_of(optimizer._get_variable_index(variable))
                    self._decay([variable])
        finally:
            self._decay_ratio = None

    def _decay_of(self, index: int) -> Any:
        return self._ratio("learning_rate", index) * self._ratio("weight_decay", index)

    def _decaying_rate(self) -> Any:
        rate = self._rate()
        return rate if self._decay_ratio is None else _times(rate, self._decay_ratio)

    def _by_ratio(self, variables: Sequence[Any], ratio: Callable[[int], float]) -> Mapping[float, list[int]]:
        """Positions in ``variables``, by the ratio of each."""
        parts: dict[float, list[int]] = {}
        for position, variable in enumerate(variables):
            parts.setdefault(ratio(self._optimizer._get_variable_index(variable)), []).append(position)
        return parts


def _times(rate: Any, ratio: Any) -> Any:
    """The rate times the ratio; the rate unchanged if the ratio is known to be 1."""
    return rate if isinstance(ratio, float) and ratio == 1 else keras.ops.multiply(rate, ratio)
