"""Snapshots of a monitor in safetensors files. Their metadata describe the layers, so that nothing is inferred."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, get_args

from ww_callbacks.analysis import Axes, LayerSpec
from ww_callbacks.report import Role, Skip
from ww_callbacks.report.skip import SENTENCES
from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.files.safetensors import CODES, METADATA, header_of
from ww_callbacks.weights.layer import Layer
from ww_callbacks.weights.tensor import StoredTensor

KEY = "ww_callbacks"
"""The entry of the metadata that describes the layers."""

VERSION = 1


class Described(NamedTuple):
    """The layers of a snapshot as plain values.

    Attributes:
        layers: a description of each layer.
        tensors: name, dtype and shape of the weights of each analysed layer, as the file has them, in its order.
        indices: the number of each of these among the analysed layers of the model.
    """

    layers: list[dict[str, Any]]
    tensors: list[tuple[str, str, tuple[int, ...]]]
    indices: list[int]


def described(layers: Sequence[Layer]) -> Described:
    """Describe layers for :func:`snapshot_header`; one whose dtype the format does not have as skipped.

    Args:
        layers: every layer of the model, analysed or not.

    Example:
        >>> from ww_callbacks.weights import find_layers
        >>> import numpy as np
        >>> found = described(find_layers({"fc": np.zeros((80, 60), "f4"), "row": np.zeros(80, "f4")}))
        >>> found.tensors, [layer["kind"] for layer in found.layers]
        ([('fc', 'F32', (80, 60))], ['matrix', 'array'])
    """
    stored = [layer.spec for layer in layers if layer.spec is not None]
    keys = _keys([spec.name for spec in stored])
    numbers = [number for number, spec in enumerate(stored) if spec.dtype in CODES]
    numbers.sort(key=lambda number: -stored[number].storage_dtype.itemsize)  # each then lies at a multiple of its size
    remaining = iter(keys)
    about = [_about(layer, next(remaining) if layer.spec is not None else "") for layer in layers]
    tensors = [(keys[number], CODES[stored[number].dtype], stored[number].shape) for number in numbers]
    return Described(about, tensors, numbers)


def snapshot_header(layers: Sequence[Mapping[str, Any]], tensors: Sequence[Any], step: int) -> bytes:
    """The beginning of the file of a snapshot, up to the numbers.

    Args:
        layers: as in :class:`Described`.
        tensors: as there, in the order in which their numbers follow.
        step: finished optimizer steps.
    """
    return header_of(tensors, {KEY: json.dumps({"version": VERSION, "step": step, "layers": layers})})


def layers_of_snapshot(path: Location, tensors: Sequence[StoredTensor], text: str) -> tuple[Layer, ...]:
    """The layers of a snapshot, exactly as the monitor had them.

    Args:
        path: of the file.
        tensors: that it holds.
        text: the entry ``KEY`` of its metadata.

    Raises:
        WeightsFileError: the description is damaged, of another version, or does not fit the tensors.
    """
    with reading(path, f"the description of its layers ({KEY}) is damaged"):
        content = json.loads(text)
        if content["version"] != VERSION:
            raise WeightsFileError(path, f"a snapshot of version {content['version']!r}, only {VERSION} is known")
        left = {tensor.name: tensor for tensor in tensors}
        layers = tuple(_layer(entry, left) for entry in content["layers"])
        if left:
            raise ValueError(f"tensor {next(iter(left))!r} belongs to no layer")
    return layers


def _about(layer: Layer, key: str) -> dict[str, Any]:
    """The description of a layer whose weights are the tensor of that name."""
    about = {"name": layer.name, "kind": layer.kind, "role": layer.role, "is_inferred": layer.is_inferred}
    skip = layer.skip
    if layer.spec is not None and layer.spec.dtype in CODES:
        return about | {"tensor": key, "axes": layer.spec.axes, "factors": layer.spec.factors}
    if layer.spec is not None:
        skip = Skip("unsupported_dtype", layer.spec.dtype)
    assert skip is not None
    return about | {"skip": [skip.reason, skip.detail]}


def _keys(names: Sequence[str]) -> list[str]:
    """The name of each tensor: that of the layer, with its number if it is taken or not valid Unicode."""
    taken = {METADATA}
    keys = []
    for number, name in enumerate(names):
        key = name if name not in taken and _is_unicode(name) else f"{name!a} {number}"
        taken.add(key)
        keys.append(key)
    return keys


def _is_unicode(name: str) -> bool:
    return name.encode(errors="replace").decode() == name


def _layer(entry: Mapping[str, Any], left: dict[str, StoredTensor]) -> Layer:
    """A layer from its description. Its tensor is removed from those that are left."""
    name, kind, role, is_inferred = (entry[key] for key in ("name", "kind", "role", "is_inferred"))
    if not isinstance(name, str) or not isinstance(kind, str) or role not in get_args(Role):
        raise ValueError(f"layer {str(name)[:80]!r}: name, kind or role has no valid value")
    if "skip" in entry:
        reason, detail = entry["skip"]
        if reason not in SENTENCES or not isinstance(detail, str):
            raise ValueError(f"layer {name[:80]!r}: unknown reason {str(reason)[:80]!r}")
        return Layer(name, kind, skip=Skip(reason, detail), role=role, is_inferred=bool(is_inferred))
    tensor = left.pop(entry["tensor"])
    pooled, outputs, inputs = entry["axes"]
    axes = Axes(tuple(pooled), tuple(outputs), tuple(inputs))
    spec = LayerSpec(name, kind, tensor.shape, tensor.dtype, axes, role, entry["factors"])
    if tensor.read is None or not _fits(spec):
        raise ValueError(f"layer {name[:80]!r}: axes and factors do not fit {tensor.dtype}{str(tensor.shape)[:80]}")
    return Layer(name, kind, spec, tensor.read, role=role, is_inferred=bool(is_inferred))


def _fits(spec: LayerSpec) -> bool:
    """Whether axes and factors are those of an array of this shape."""
    axes = list(chain(*spec.axes))
    if type(spec.factors) is not int or any(type(axis) is not int for axis in axes) or 0 in spec.shape:
        return False
    if spec.factors:
        return len(spec.shape) == 2 and 0 < spec.factors < spec.shape[1] and not axes
    return sorted(axes) == list(range(len(spec.shape)))
