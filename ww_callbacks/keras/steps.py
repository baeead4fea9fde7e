"""How many optimizer steps of a training are finished, also where the optimizer of the model does not count them."""

from __future__ import annotations

import logging
import zlib
from typing import Any

import keras
import numpy as np

_log = logging.getLogger("ww_callbacks")


class Steps:
    """Counts the finished optimizer steps of one ``fit``.

    The count is ``optimizer.iterations``. It is read where a snapshot may be due and at the ends of epochs only,
    because reading it waits for the device; in between, batches are counted. If it stays where it is although batches
    were finished and the weights changed, the model trains with other optimizers, and its steps are its batches from
    then on. Keras's own training step with an optimizer of Keras always counts: the weights are not looked at then.

    Attributes:
        by_batches: whether steps are batches, because the optimizer of the model does not count.

    Args:
        counted: batches counted in an earlier ``fit`` of the same model; None if it counted steps, or there was none.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> model.compile(loss="mse")
        >>> steps = Steps()
        >>> steps.begin(model), steps.estimate(batch=3), steps.measure(model, batch=3)
        (0, 3, 0)
    """

    def __init__(self, counted: int | None = None) -> None:
        self._counted = counted
        self.by_batches = False
        self._is_sure = True  # that the optimizer counts
        self._has_moved = False  # the counter
        self._start = 0  # batch counts: the step at which this fit began
        self._finished = 0  # batches of the finished epochs
        self._count, self._count_at = 0, 0  # the counter, and the batch at which it was first seen there
        self._read_at = 0  # the batch at which it was read last
        self._per_batch = self._accumulation = 1
        self._checksums: tuple[int, ...] | None = None

    def begin(self, model: keras.Model, batch: int = 0, *, expected: int = 0) -> int:
        """Start to count; call it again if the model was not built before its first batch.

        Args:
            model: the model in training.
            batch: finished batches of this epoch.
            expected: batches in the epochs before the first one of this ``fit``; 0 if that is not known. They count if
                the optimizer does not: it was not what trained the model in them.

        Returns:
            The finished steps.
        """
        self._count, self._count_at, self._read_at = batches_done(model), self._finished, self._finished + batch
        self._accumulation = getattr(inner_optimizer(model.optimizer), "gradient_accumulation_steps", None) or 1
        self._is_sure = _always_counts(model)
        if self._counted is not None:
            self.by_batches, self._start = True, self._counted
        elif model.optimizer is None or (expected and not self._is_sure and not self._count):
            self._count_batches(model, expected)
        return self.estimate(batch) if self.by_batches else steps_done(model)

    def remember(self, model: keras.Model) -> None:
        """Remember the weights that the first batch starts from, to notice that they change."""
        if not (self._is_sure or self.by_batches):
            self._checksums = checksums(model)

    def begin_epoch(self, model: keras.Model) -> None:
        """Read the counter at the beginning of an epoch."""
        count = batches_done(model)
        if count != self._count:
            self._count, self._count_at = count, self._finished
        self._read_at = self._finished

    def end_epoch(self, batches: int) -> None:
        """Add the finished batches of an epoch."""
        self._finished += batches

    def estimate(self, batch: int) -> int:
        """The finished steps, without reading the counter.

        Args:
            batch: finished batches of this epoch.
        """
        done = self._finished + batch
        if self.by_batches:
            return self._start + done
        return (self._count + (done - self._read_at) * self._per_batch) // self._accumulation

    def measure(self, model: keras.Model, batch: int) -> int:
        """The finished steps, with the counter read if there is one.

        Args:
            model: the model with its current state.
            batch: finished batches of this epoch.
        """
        if self.by_batches:
            return self.estimate(batch)
        done, count = self._finished + batch, batches_done(model)
        if count != self._count:
            self._per_batch = max(1, (count - self._count) // max(done - self._count_at, 1))
            self._count, self._count_at, self._checksums, self._has_moved = count, done, None, True
        elif done > self._count_at and not self._is_sure and self._have_weights_changed(model):
            self._count_batches(model, steps_done(model) - self._count_at)
            return self.estimate(batch)
        self._read_at = done
        return steps_done(model)

    def learning_rates(self, model: keras.Model) -> list[float]:
        """The learning rates of the optimizers at work; empty as long as it is not known which these are."""
        if self.by_batches:
            found = [each for each in vars(model).values() if isinstance(each, keras.optimizers.Optimizer)]
            at_work = [each for each in found if each is not model.optimizer]
        else:
            at_work = [model.optimizer] if self._is_sure or self._has_moved else []
        rates = [getattr(each, "learning_rate", None) for each in at_work]
        return [float(rate) for rate in rates if rate is not None]

    def _count_batches(self, model: keras.Model, start: int) -> None:
        """Count batches from now on, and say so once.

        Args:
            model: the model in training.
            start: the step at which this ``fit`` began.
        """
        if not self.by_batches:
            name = "no optimizer" if model.optimizer is None else type(inner_optimizer(model.optimizer)).__name__
            _log.warning(
                "the model was compiled with %s, which does not count the steps of this training (optimizer.iterations "
                "stays %s while the weights change): its finished batches are counted as steps",
                name,
                steps_done(model),
            )
        self.by_batches, self._start = True, start

    def _have_weights_changed(self, model: keras.Model) -> bool:
        """Whether they differ from those remembered since the counter moved; remember them if there are none."""
        before, now = self._checksums, checksums(model)
        self._checksums = before or now
        return before is not None and now != before


def steps_done(model: keras.Model) -> int:
    """Number of optimizer steps that the optimizer of the model has counted."""
    return int(model.optimizer.iterations) if model.optimizer is not None else 0


def batches_done(model: keras.Model) -> int:
    """Number of batches given to the optimizer: more than its steps if it accumulates gradients."""
    optimizer = inner_optimizer(model.optimizer)
    return int(getattr(optimizer, "_iterations", optimizer.iterations)) if optimizer is not None else 0


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer that counts steps: the inner one if the optimizer only scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def checksums(model: keras.Model) -> tuple[int, ...]:
    """A checksum of each trainable variable, one after the other.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> before = checksums(model)
        >>> model.layers[0].bias.assign([0.0, 1.0]) is None, checksums(model)[0] == before[0]
        (False, True)
        >>> checksums(model)[1] == before[1]
        False
    """
    arrays = (keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables)
    return tuple(zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data) for array in arrays)


def _always_counts(model: keras.Model) -> bool:
    """Whether both the training step and the optimizer are those of Keras."""
    makers = [model.train_step, model.make_train_function, type(inner_optimizer(model.optimizer))]
    return all(getattr(maker, "__module__", "").startswith("keras.") for maker in makers)
