"""Description of a layer's stored weights, and their conversion to matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.report import Role


class Axes(NamedTuple):
    """The axes of stored weights, by what they count.

    Attributes:
        pooled: separate matrices that are analysed together, such as the positions of a convolution kernel.
        outputs: rows of the matrices.
        inputs: columns of the matrices.
    """

    pooled: tuple[int, ...]
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Description of a layer's stored weights, known before they are read.

    Attributes:
        name: full dotted name.
        kind: class of the layer.
        shape: stored shape.
        dtype: numpy name of the stored dtype, or "bfloat16" (raw 16-bit words).
        axes: what each stored axis counts.
        role: what they are used for; ``Settings.conv_scale`` applies to "convolution".
        factors: for weights B·A of low rank r, the number of outputs; 0 for all others. Stored is an array of shape
            (r, outputs + inputs). Its row i holds column i of B, then row i of A. ``axes`` has no meaning.

    Example:
        >>> LayerSpec("fc", "LoRA", (8, 100 + 60), "float32", ((), (), ()), "adapter", factors=100).matrix_shape
        (1, 100, 60)
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    axes: Axes
    role: Role = "matrix"
    factors: int = 0

    def __post_init__(self) -> None:
        """Name the axes, which are plain lists after a message to the worker."""
        object.__setattr__(self, "axes", Axes(*(tuple(axes) for axes in self.axes)))

    @property
    def storage_dtype(self) -> np.dtype[Any]:
        """The numpy dtype of the copied weights."""
        return np.dtype(np.uint16 if self.dtype == "bfloat16" else self.dtype)

    @property
    def nbytes(self) -> int:
        """Size of the stored weights in bytes."""
        return math.prod(self.shape) * self.storage_dtype.itemsize

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """(pooled matrices, rows, columns)."""
        if self.factors:
            return 1, self.factors, self.shape[1] - self.factors
        pooled, rows, columns = (math.prod([self.shape[axis] for axis in axes]) for axes in self.axes)
        return pooled, rows, columns

    @property
    def work(self) -> int:
        """Relative cost of the analysis: number of multiplications of the Gram matrices, also those of factors.

        Example:
            >>> LayerSpec("fc", "Linear", (100, 20), "float32", ((), (0,), (1,))).work
            40000
        """
        if self.factors:
            return self.shape[1] * self.shape[0] ** 2
        pooled, rows, columns = self.matrix_shape
        return pooled * max(rows, columns) * min(rows, columns) ** 2


class Snapshot(NamedTuple):
    """The weights of a layer at one step.

    Attributes:
        step: number of finished optimizer steps.
        stored: the weights.
        digest: equal for equal weights only.
    """

    step: int
    stored: NDArray[Any]
    digest: str


def as_matrices(spec: LayerSpec, stored: NDArray[Any]) -> NDArray[Any]:
    """The matrices of a layer, shape (pooled, rows, columns), in a dtype supported by numpy."""
    return arranged(spec, as_numbers(spec, stored))


def as_numbers(spec: LayerSpec, stored: NDArray[Any]) -> NDArray[Any]:
    """The stored weights, in a dtype supported by numpy."""
    return decoded(stored, spec.dtype)


def decoded(stored: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Stored numbers in a dtype supported by numpy: bfloat16, stored as raw 16-bit words, becomes float32."""
    if dtype != "bfloat16":
        return stored
    words = stored.astype(np.uint32)
    words <<= 16  # in place: an embedding may have a billion numbers
    return words.view(np.float32)


def arranged(spec: LayerSpec, numbers: NDArray[Any]) -> NDArray[Any]:
    """The matrices of a layer, shape (pooled, rows, columns); factors are multiplied."""
    if spec.factors:
        B, A = factors_of(spec, numbers)
        product: NDArray[Any] = B @ A
        return product[None]
    return numbers.transpose(list(chain(*spec.axes))).reshape(spec.matrix_shape)


def factors_of(spec: LayerSpec, numbers: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The factors B, shape (outputs, r), and A, shape (r, inputs), of low-rank weights."""
    return numbers[:, : spec.factors].T, numbers[:, spec.factors :]


def joined_factors(B: NDArray[Any], A: NDArray[Any]) -> NDArray[Any]:
    """How the factors of low-rank weights are stored, shape (r, outputs + inputs).

    Args:
        B: shape (outputs, r).
        A: shape (r, inputs).
    """
    return np.concatenate([B.T, A], axis=1)
