"""Low-rank adapters of a file together with the weights that they change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis import Axes, LayerSpec, as_matrices
from ww_callbacks.report import LayerReport, Skip
from ww_callbacks.weights import Layer
from ww_callbacks.weights.layer import adapter_layer

Matrices = NDArray[Any]


def merge(
    layers: Sequence[Layer], baseline: Sequence[Layer]
) -> tuple[tuple[Layer, ...], tuple[Layer, ...], list[Layer]]:
    """Add adapters to the weights of a baseline.

    Args:
        layers: of a file with adapters; other layers stay as they are.
        baseline: the layers that they change. A projection that the baseline splits, such as ``attn`` in ``attn.q`` and
            ``attn.k``, is split in the same way.

    Returns:
        The layers with the changed weights in place of adapters; the baseline with a copy for each of these layers,
        under its name; and the adapters, under the same names.
    """
    named = {layer.name: layer for layer in baseline}
    if not any(_bases(layer, named) for layer in layers):
        return tuple(layers), tuple(baseline), []
    now: list[Layer] = []
    copies: dict[str, Layer] = {}
    adapters: list[Layer] = []
    for layer in layers:
        if layer.adapter is None:
            now.append(layer)
            continue
        found = list(_changed(layer, _bases(layer, named)))
        now += [changed for changed, _, _ in found] or [layer.without_weights(_MISSING)]
        copies |= {changed.name: base.named(changed.name) for changed, base, _ in found}
        adapters += [adapter for _, _, adapter in found if adapter is not None]
    rest = (layer for layer in baseline if layer.name not in copies)
    return tuple(now), (*copies.values(), *rest), adapters


_MISSING = Skip("adapter", "the baseline has no layer of this name")


def with_ranks(reports: Sequence[LayerReport], adapters: Sequence[LayerReport]) -> list[LayerReport]:
    """The reports of changed layers with the columns of their adapters.

    Args:
        reports: of all layers.
        adapters: reports of the adapters of some of them, matched by name.
    """
    found = {each.name: each for each in adapters}
    return [
        replace(report, lora_rank=found[report.name].lora_rank, lora_used=found[report.name].lora_used)
        if report.name in found
        else report
        for report in reports
    ]


def _bases(layer: Layer, baseline: Mapping[str, Layer]) -> list[Layer]:
    """The layer of the baseline that an adapter changes, or the parts of it."""
    if layer.adapter is None or layer.spec is None:
        return []
    name = layer.adapter.base
    if name in baseline:
        base = baseline[name]
        return [] if base.spec is not None and base.spec.factors else [base]
    parts = []
    for other in baseline.values():
        if other.spec is not None and other.name.rpartition(".")[0] == name:
            parts.append(other)
            if sum(part.spec.matrix_shape[1] for part in parts if part.spec is not None) == layer.spec.factors:
                return parts
    return []


def _changed(layer: Layer, bases: Sequence[Layer]) -> Iterator[tuple[Layer, Layer, Layer | None]]:
    """Each base with its change added, the base itself, and the change."""
    for base, part in zip(bases, _parts(layer, bases), strict=True):
        requested = base.on_request
        if requested is not None and base.skip is not None:
            changed, adapter = _sum(part, requested)
            yield changed.only_on_request(base.skip), requested, adapter
        else:
            changed, adapter = _sum(part, base)
            yield changed, base, adapter


def _parts(layer: Layer, bases: Sequence[Layer]) -> Iterator[Layer]:
    """The adapter, divided along its outputs as its base is."""
    assert layer.spec is not None
    assert layer.adapter is not None
    if len(bases) == 1 and bases[0].name == layer.adapter.base:
        yield layer
        return
    sizes = [base.spec.matrix_shape[1] for base in bases if base.spec is not None]
    for base, size, start in zip(bases, sizes, accumulate(sizes, initial=0), strict=False):
        outputs = slice(start, start + size)
        magnitude = layer.adapter.magnitude
        change = replace(layer.adapter, magnitude=None if magnitude is None else partial(_narrowed, magnitude, outputs))
        yield adapter_layer(
            f"{layer.name}.{base.name.rpartition('.')[2]}",
            layer.spec.shape[0],
            (size, layer.spec.matrix_shape[2]),
            layer.spec.dtype,
            partial(_narrowed_factors, layer, outputs),
            change,
        )


def _narrowed(read: Any, outputs: slice) -> Matrices:
    return read().reshape(-1)[outputs]  # type: ignore[no-any-return]


def _narrowed_factors(layer: Layer, outputs: slice) -> Matrices:
    assert layer.spec is not None
    assert layer.read is not None
    stored = layer.read()
    return np.concatenate([stored[:, outputs], stored[:, layer.spec.factors :]], axis=1)


def _sum(layer: Layer, base: Layer) -> tuple[Layer, Layer | None]:
    """The changed layer, and the adapter if there is one to analyse."""
    assert layer.spec is not None
    assert layer.adapter is not None
    if base.spec is None:
        return layer.without_weights(Skip("adapter", f"its layer in the baseline: {base.reason}")), None
    turned = _is_turned(layer, base)
    if turned is None:
        sides, others = layer.spec.matrix_shape[1:], base.spec.matrix_shape
        detail = f"B·A of shape {sides} does not fit {others[1]} x {others[2]} of the baseline ({others[0]} of them)"
        return layer.without_weights(Skip("adapter", detail)), None
    axes = Axes((0,), (1,), (2,))  # in double precision, so that the difference from the baseline is exactly B·A
    spec = LayerSpec(layer.name, base.kind, base.spec.matrix_shape, "float64", axes, base.spec.role)
    changed = Layer(
        layer.name,
        base.kind,
        spec,
        partial(_read, layer, base, turned),
        role=base.role,
        is_inferred=base.is_inferred,
    )
    return changed, layer


def _is_turned(layer: Layer, base: Layer) -> bool | None:
    """Whether the rows of the baseline are the inputs of the adapter; None if the shapes do not fit.

    Square weights do not show it. Then the adapter says how its layer stores them, which matters if the class of the
    layer is unknown.
    """
    assert layer.spec is not None
    assert layer.adapter is not None
    assert base.spec is not None
    pooled, rows, columns = base.spec.matrix_shape
    sides = layer.spec.matrix_shape[1:]
    fits = {False: (rows, pooled * columns) == sides, True: pooled == 1 and (columns, rows) == sides}
    is_unknown = base.role == "matrix" and (base.is_inferred or base.kind == "matrix")
    expected = layer.adapter.is_transposed and is_unknown
    return next((turned for turned in (expected, not expected) if fits[turned]), None)


def _read(layer: Layer, base: Layer, turned: bool) -> Matrices:
    """W₀ + B·A, with the rows scaled to their magnitudes with DoRA; shape (positions, rows, columns)."""
    assert layer.spec is not None
    assert layer.read is not None
    assert layer.adapter is not None
    assert base.spec is not None
    assert base.read is not None
    start = as_matrices(base.spec, base.read()).astype(np.float64)
    if turned:
        start = start.swapaxes(1, 2)
    positions, outputs, inputs = start.shape
    change = as_matrices(layer.spec, layer.read())[0].reshape(outputs, inputs, positions)
    total: Matrices = start + change.transpose(2, 0, 1)
    if layer.adapter.magnitude is not None:
        total = _with_norms(total, layer.adapter.magnitude().reshape(-1))
    return total.swapaxes(1, 2) if turned else total


def _with_norms(matrices: Matrices, norms: Matrices) -> Matrices:
    """The matrices with rows that have these norms, over all positions together."""
    with np.errstate(all="ignore"):
        found = np.sqrt(np.square(matrices, dtype=np.float64).sum(axis=(0, 2)))
        scaled: Matrices = matrices * (norms / found)[:, None]
    return scaled.astype(matrices.dtype)
