"""A layer as the analysis sees it: where its weights are stored and which matrices they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis import Axes, LayerSpec
from ww_callbacks.patterns import matching
from ww_callbacks.report import LayerReport, Role, Skip


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a low-rank adapter B·A in a file changes.

    Attributes:
        base: name of the layer whose weights W₀ it changes.
        is_transposed: whether this layer stores its weights as (inputs, outputs).
        magnitude: None if the changed weights are W₀ + B·A. With DoRA, the function reads the norms that the rows of
            this sum are scaled to, one for each output.
    """

    base: str
    is_transposed: bool = False
    magnitude: Callable[[], NDArray[np.generic]] | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that holds weights.

    Attributes:
        name: full dotted name, without the prefixes of wrappers.
        kind: class of the layer.
        spec: what the stored weights are; None if the layer is not analysed.
        read: returns the current stored weights. The array may share memory with the model: copy it, never keep or
            change it.
        skip: why the layer is not analysed; None if it is.
        send: for weights on a device: starts to copy them to host memory.
        role: what the weights are used for.
        is_inferred: whether the class of the layer is unknown and its kind a guess from name and shape.
        on_request: for a layer that is skipped unless ``layers=`` contains its full name: the layer to analyse then.
        adapter: for a low-rank adapter in a file: what it changes.
    """

    name: str
    kind: str
    spec: LayerSpec | None = None
    read: Callable[[], NDArray[np.generic]] | None = None
    skip: Skip | None = None
    send: Callable[[], Any] | None = None
    role: Role = "matrix"
    is_inferred: bool = False
    on_request: Layer | None = None
    adapter: Adapter | None = None

    @property
    def source(self) -> Callable[[], Any] | None:
        """What a snapshot calls: ``send`` if the weights are on a device, else ``read``."""
        return self.send or self.read

    @classmethod
    def skipped(cls, name: str, kind: str, skip: Skip, role: Role = "other") -> Layer:
        """A layer that is listed but not analysed."""
        return cls(name, kind, skip=skip, role=role)

    def without_weights(self, skip: Skip) -> Layer:
        """The layer, listed but not analysed."""
        return replace(self, spec=None, read=None, send=None, skip=skip)

    def only_on_request(self, skip: Skip) -> Layer:
        """The layer, skipped unless ``layers=`` contains its full name."""
        return replace(self.without_weights(skip), on_request=self)

    def named(self, name: str) -> Layer:
        """The layer under another name."""
        spec = None if self.spec is None else replace(self.spec, name=name)
        on_request = None if self.on_request is None else self.on_request.named(name)
        return replace(self, name=name, spec=spec, on_request=on_request)

    @property
    def reason(self) -> str:
        """Why the layer is not analysed, as a sentence; "" if it is."""
        return "" if self.skip is None else self.skip.sentence

    @property
    def is_late(self) -> bool:
        """Whether the layer is not analysed only because its weights do not exist yet."""
        return self.skip is not None and self.skip.reason == "not_built"

    def skip_report(self, step: int | None) -> LayerReport:
        """The entry of a layer that is not analysed."""
        assert self.skip is not None
        return LayerReport(name=self.name, kind=self.kind, role=self.role, step=step, **self.skip.columns)


def array_layer(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any] | str,
    read: Callable[[], NDArray[np.generic]],
) -> Layer:
    """A layer from a matrix (two-dimensional) or a convolution kernel in torch's order (out, in, height, width)."""
    axes = Axes((2, 3), (0,), (1,)) if len(shape) == 4 else Axes((), (0,), (1,))
    role: Role = "convolution" if len(shape) == 4 else "matrix"
    return Layer(name, kind, LayerSpec(name, kind, tuple(shape), str(dtype), axes, role), read, role=role)


def adapter_layer(
    name: str,
    rank: int,
    sides: tuple[int, int],
    dtype: str,
    read: Callable[[], NDArray[np.generic]],
    adapter: Adapter | None = None,
) -> Layer:
    """A layer from a low-rank adapter B·A.

    Args:
        name: full dotted name.
        rank: number of columns of B.
        sides: number of outputs and of inputs.
        dtype: of the stored factors.
        read: returns the factors as :func:`ww_callbacks.analysis.joined_factors` joins them.
        adapter: what it changes, if that is known.
    """
    shape, no_axes = (rank, sum(sides)), Axes((), (), ())
    spec = LayerSpec(name, ADAPTER, shape, dtype, no_axes, "adapter", factors=sides[0])
    return Layer(name, ADAPTER, spec, read, send=getattr(read, "send", None), role="adapter", adapter=adapter)


ADAPTER = "LoRA"
"""The kind of low-rank adapters."""
VECTOR = Skip("no_matrix", "fewer than two dimensions")


def dimensions_skip(ndim: int) -> Skip:
    """Why an array is not analysed that has neither two nor four dimensions."""
    if ndim < 2:
        return VECTOR
    return Skip("no_rule", f"an array of {ndim} dimensions (a matrix has 2, a convolution kernel 4)")


def select_layers(layers: Sequence[Layer], patterns: Sequence[str] | None) -> tuple[Layer, ...]:
    """The same layers; those that the patterns exclude stay listed as skipped.

    A layer that is analysed only on request is one if a pattern is its full name.

    Raises:
        ValueError: a pattern matches no layer.
    """
    if patterns is None:
        return tuple(layers)
    kept = matching([layer.name for layer in layers], patterns, "layers")
    requested = [layer.on_request or layer if layer.name in patterns else layer for layer in layers]
    return tuple(layer if layer.name in kept else layer.without_weights(Skip("excluded")) for layer in requested)
