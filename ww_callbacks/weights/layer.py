"""A layer as the analysis sees it: where its weights are stored and which matrices they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis import Axes, LayerSpec
from ww_callbacks.patterns import matching
from ww_callbacks.report import LayerReport

LATER = "looked at again at the next snapshot"
"""Ends the reason of a layer that will be analysed once its weights exist."""

INFERRED = "(inferred)"
"""Ends the kind of a layer whose class is not known but inferred from name and shape."""

LEFT_OUT = "left out by layers="


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that holds weights.

    Attributes:
        name: full dotted name, without the prefixes of wrappers.
        kind: class of the layer.
        spec: what the stored weights are; None where the layer is not analysed.
        read: gives the stored weights as they are now. The array may share memory with the model: copy it, never
            keep or change it.
        reason: why the layer is not analysed.
        send: for weights on a device: begins to copy them to this machine.
    """

    name: str
    kind: str
    spec: LayerSpec | None = None
    read: Callable[[], NDArray[np.generic]] | None = None
    reason: str = ""
    send: Callable[[], Any] | None = None

    @property
    def source(self) -> Callable[[], Any] | None:
        """What a snapshot asks: ``send`` where the weights are on a device, else ``read``."""
        return self.send or self.read

    @classmethod
    def skipped(cls, name: str, kind: str, reason: str) -> Layer:
        """A layer that is listed but not analysed."""
        return cls(name, kind, reason=reason)

    @property
    def is_late(self) -> bool:
        """Whether the layer is not analysed only because its weights do not exist yet."""
        return self.reason.endswith(LATER)

    def skip_report(self, step: int | None) -> LayerReport:
        """The entry of a layer that is not analysed."""
        return LayerReport(name=self.name, kind=self.kind, status="skipped", reason=self.reason, step=step)


def array_layer(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any] | str,
    read: Callable[[], NDArray[np.generic]],
) -> Layer:
    """A layer from a matrix (two-dimensional) or a convolution kernel in torch's order (out, in, height, width)."""
    axes = Axes((2, 3), (0,), (1,)) if len(shape) == 4 else Axes((), (0,), (1,))
    return Layer(name, kind, LayerSpec(name, kind, tuple(shape), str(dtype), axes, len(shape) == 4), read)


def dimensions_reason(ndim: int) -> str:
    """Why an array without two or four dimensions is not analysed."""
    if ndim < 2:
        return "no matrix: fewer than two dimensions"
    return f"{ndim} dimensions: neither a matrix (2) nor a convolution kernel (4)"


def select_layers(layers: Sequence[Layer], patterns: Sequence[str] | None) -> tuple[Layer, ...]:
    """The same layers; those that the patterns do not keep stay listed as skipped.

    Raises:
        ValueError: a pattern matches no layer.
    """
    if patterns is None:
        return tuple(layers)
    kept = matching([layer.name for layer in layers], patterns, "layers")
    return tuple(
        layer if layer.name in kept else replace(layer, spec=None, read=None, reason=LEFT_OUT) for layer in layers
    )
