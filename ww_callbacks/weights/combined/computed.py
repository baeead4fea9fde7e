"""Weights that torch computes from stored tensors: pruning, weight normalisation, spectral normalisation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis import decoded
from ww_callbacks.weights.combined.group import Combined, Config, Group, require, require_real
from ww_callbacks.weights.tensor import FLOATS, StoredTensor

_BELOW = "parametrizations."


def pruned(group: Group, config: Config) -> Iterator[Combined]:
    """Weights of ``torch.nn.utils.prune``: the original times the mask.

    Args:
        group: tensors of a module.
        config: not used.
    """
    for name in [name.removesuffix("_mask") for name in group if name.endswith("_mask")]:
        original, mask = group.get(f"{name}_orig"), group[f"{name}_mask"]
        if original is None or not _are_numbers(original):
            continue
        require_real(mask)
        require(original.shape == mask.shape, f"{name}_mask of shape {mask.shape}, {name}_orig {original.shape}")
        parts = (f"{name}_orig", f"{name}_mask")
        yield _combined(name, parts, original, partial(_masked, original, mask))


def normalised(group: Group, config: Config) -> Iterator[Combined]:
    """Weights of ``weight_norm``, the older and the newer one: g · v / ‖v‖ (Salimans & Kingma, 2016).

    Args:
        group: tensors of a module.
        config: not used.
    """
    for name in _names(group, "_g", ".original0"):
        magnitude, direction = (f"{name}_g", f"{name}_v")
        if magnitude not in group:
            magnitude, direction = f"{_BELOW}{name}.original0", f"{_BELOW}{name}.original1"
        g, v = group[magnitude], group.get(direction)
        if v is None or not _are_numbers(g, v):
            continue
        kept = [axis for axis, (one, side) in enumerate(zip(g.shape, v.shape, strict=False)) if one == side != 1]
        fits = math.prod(g.shape) == 1 or (len(g.shape) == len(v.shape) and len(kept) == 1)
        require(fits and math.prod(g.shape) == math.prod(v.shape[axis] for axis in kept), f"g {g.shape}, v {v.shape}")
        axes = tuple(axis for axis in range(len(v.shape)) if axis not in kept)
        yield _combined(name, (direction, magnitude), v, partial(_normalised, g, v, axes))


def spectral(group: Group, config: Config) -> Iterator[Combined]:
    """Weights of ``spectral_norm``, the older and the newer one: W / (uᵀ W v), with the stored u and v.

    Args:
        group: tensors of a module.
        config: not used.
    """
    for name in _names(group, "_u", ".0._u"):
        parts: tuple[str, ...] = (f"{name}_orig", f"{name}_u", f"{name}_v")
        if parts[1] not in group:
            parts = tuple(f"{_BELOW}{name}.{part}" for part in ("original", "0._u", "0._v"))
        if any(part not in group for part in parts) or not _are_numbers(*(group[part] for part in parts)):
            continue
        W, u, v = (group[part] for part in parts)
        axes = [axis for axis, side in enumerate(W.shape) if u.shape == (side,) and v.shape == (_rest(W, axis),)]
        require(bool(axes), f"u of shape {u.shape}, v {v.shape} and W {W.shape} do not fit")
        require(len(axes) == 1 or len(W.shape) == 2, f"u fits several axes of a weight of shape {W.shape}")
        yield _combined(name, parts, W, partial(_spectral, W, u, v, axes[0]))


def _names(group: Group, old: str, new: str) -> list[str]:
    """The weights that have a part with one of these endings."""
    older = [name.removesuffix(old) for name in group if name.endswith(old) and not name.startswith(_BELOW)]
    newer = [name.removesuffix(new) for name in group if name.endswith(new) and name.startswith(_BELOW)]
    return older + [name.removeprefix(_BELOW) for name in newer]


def _are_numbers(*tensors: StoredTensor) -> bool:
    return all(tensor.read is not None and tensor.dtype in FLOATS for tensor in tensors)


def _rest(tensor: StoredTensor, axis: int) -> int:
    return math.prod(side for each, side in enumerate(tensor.shape) if each != axis)


def _combined(name: str, parts: tuple[str, ...], main: StoredTensor, compute: Any) -> Combined:
    dtype = "float64" if main.dtype == "float64" else "float32"
    return Combined(name, parts, main.shape, partial(_rounded, compute, dtype), dtype=dtype)


def _rounded(compute: Any, dtype: str) -> NDArray[Any]:
    with np.errstate(all="ignore"):  # the analysis says that there are numbers that are not finite
        result: NDArray[Any] = compute().astype(dtype)
    return result


def _double(tensor: StoredTensor) -> NDArray[np.float64]:
    assert tensor.read is not None
    return np.asarray(decoded(tensor.read(), tensor.dtype), np.float64)


def _masked(original: StoredTensor, mask: StoredTensor) -> NDArray[np.float64]:
    assert mask.read is not None
    return _double(original) * np.asarray(decoded(mask.read(), mask.dtype), np.float64)


def _normalised(g: StoredTensor, v: StoredTensor, axes: tuple[int, ...]) -> NDArray[np.float64]:
    direction = _double(v)
    length = np.sqrt((direction * direction).sum(axes, keepdims=True))
    weight: NDArray[np.float64] = direction * (_double(g).reshape(length.shape) / length)
    return weight


def _spectral(W: StoredTensor, u: StoredTensor, v: StoredTensor, axis: int) -> NDArray[np.float64]:
    weight = _double(W)
    matrix = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    result: NDArray[np.float64] = weight / (_double(u) @ matrix @ _double(v))
    return result
