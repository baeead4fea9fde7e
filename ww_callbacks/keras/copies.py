"""Copies of a model's weights from the latest steps, to restore."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ww_callbacks.checks import check_count


class Copies:
    """The newest complete copies of the weights, in the memory of the training process.

    Args:
        keep: number of copies; the memory is that many times the size of the weights.

    Raises:
        TypeError: ``keep`` is not an integer.
        ValueError: ``keep`` is smaller than 1.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> copies = Copies(2)
        >>> for step in (0, 10, 20):
        ...     copies.take(model, step)
        >>> copies.steps, copies.restore(model, 15), copies.restore(model, 5), copies.nbytes
        ([10, 20], 10, 10, 48)
    """

    def __init__(self, keep: int) -> None:
        check_count("keep", keep)
        self._keep = keep
        self._copies: OrderedDict[int, list[NDArray[Any]]] = OrderedDict()

    @property
    def steps(self) -> list[int]:
        """The steps of the copies, oldest first."""
        return list(self._copies)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the copies take."""
        return sum(weight.nbytes for weights in self._copies.values() for weight in weights)

    def take(self, model: keras.Model, step: int) -> None:
        """Copy the weights. On torch, the arrays of ``get_weights`` share memory with the model."""
        self._copies[step] = [np.array(weight) for weight in model.get_weights()]
        while len(self._copies) > self._keep:
            self._copies.popitem(last=False)

    def restore(self, model: keras.Model, step: int) -> int | None:
        """Restore the weights of a step, or of the last copy before it.

        Returns:
            The step of the copy: the oldest one if all copies are later; None if there is no copy.
        """
        if not self._copies:
            return None
        chosen = max((taken for taken in self._copies if taken <= step), default=self.steps[0])
        model.set_weights(self._copies[chosen])
        return chosen

    def clear(self) -> None:
        """Free the memory."""
        self._copies.clear()
