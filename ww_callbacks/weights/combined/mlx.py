"""Quantised weights of MLX: 32-bit words with scales per group of inputs, and biases in the affine mode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.weights.combined import float8
from ww_callbacks.weights.combined.group import (
    Combined,
    Config,
    Group,
    Numbers,
    Stack,
    UnfitError,
    codes,
    numbers,
    require,
    require_floats,
)
from ww_callbacks.weights.combined.packing import E2M1, powers_of_two, unpacked
from ww_callbacks.weights.tensor import StoredTensor

GROUP_SIZES, AFFINE_BITS = (32, 64, 128), (1, 2, 3, 4, 5, 6, 8)
"""What the affine mode allows."""


class _Mode(NamedTuple):
    """A mode of 8-bit scales: the bits of a code and the number of codes that share a scale."""

    bits: int
    size: int


_MODES = {"mxfp4": _Mode(4, 32), "mxfp8": _Mode(8, 32), "nvfp4": _Mode(4, 16)}


def mlx(group: Group, config: Config) -> Iterator[Combined]:
    """Weights that ``mlx.core.quantize`` made: code · scale + bias, or floating-point codes times a scale.

    In the affine mode, groups of 32 codes with four bits have the shapes of groups of 64 with two. The configuration,
    or ``"quantization"`` in ``config.json``, tells them apart with ``group_size`` and ``bits``, for the model or under
    the name of a module. Without it, only shapes that fit one pair are read. Modes with 8-bit scales have one pair.

    Args:
        group: tensors of a module.
        config: the configuration beside the file.
    """
    weight, scales, biases = (group.get(name) for name in ("weight", "scales", "biases"))
    if weight is None or scales is None or weight.dtype != "uint32":
        return
    require("global_scale" not in group, "global_scale, which is not read")
    is_grouped = len(weight.shape) >= 2 and scales.shape[:-1] == weight.shape[:-1] and 0 not in scales.shape
    require(is_grouped, f"weight of shape {weight.shape} and scales {scales.shape} do not fit")
    bits_per_group, rest = divmod(32 * weight.shape[-1], scales.shape[-1])
    require(rest == 0, f"weight of shape {weight.shape} and scales {scales.shape} do not fit")
    stated = _stated(weight.name, config)
    parts: tuple[str, ...] = ("weight", "scales")
    if biases is None:
        mode = _mode(bits_per_group, stated)
        require(scales.dtype == "uint8", f"scales of dtype {scales.dtype} without biases")
        size = _MODES[mode].size
        read = Stack(partial(_floats, mode), (weight, scales), weight.shape[0])
    else:
        require_floats(scales, biases)
        require(biases.shape == scales.shape, f"biases of shape {biases.shape} and scales {scales.shape} do not fit")
        bits, size = _affine_pair(bits_per_group, stated)
        parts += ("biases",)
        read = Stack(partial(_affine, bits), (weight, scales, biases), weight.shape[0])
    yield Combined("weight", parts, (*weight.shape[:-1], scales.shape[-1] * size), read)


def _stated(name: str, config: Config) -> Config:
    """What the configuration says about a weight; what it says about its module comes first."""
    module: Any = config.get(name.removesuffix(".weight"))
    return module if isinstance(module, dict) else config


def _affine_pair(bits_per_group: int, stated: Config) -> tuple[int, int]:
    """Bits of a code and size of a group.

    Example:
        >>> _affine_pair(320, {}), _affine_pair(256, {"bits": 4, "group_size": 64})
        ((5, 64), (4, 64))
    """
    bits, size = stated.get("bits"), stated.get("group_size")
    fits = [(b, s) for b in AFFINE_BITS for s in GROUP_SIZES if b * s == bits_per_group]
    for pair in fits:
        if pair == (bits, size):
            return pair
    require((bits is None and size is None) or not fits, f"{bits} bits in groups of {size} do not fit the shapes")
    if len(fits) != 1:
        raise UnfitError("no config.json beside the file states the group_size and the bits that fit")
    return fits[0]


def _mode(bits_per_group: int, stated: Config) -> str:
    """The mode with 8-bit scales that fits."""
    fits = [mode for mode, (bits, size) in _MODES.items() if bits * size == bits_per_group]
    require(len(fits) == 1, f"{bits_per_group} bits per scale")
    named = stated.get("mode", fits[0])
    require(named == fits[0], f"mode {named} does not fit the shapes")
    return fits[0]


def _affine(bits: int, weight: StoredTensor, scales: StoredTensor, biases: StoredTensor) -> Numbers:
    factor, offset = numbers(scales)[..., None], numbers(biases)[..., None]
    values = unpacked(codes(weight), bits, -1).astype(np.float32).reshape(*scales.shape, -1)
    with np.errstate(over="ignore", invalid="ignore"):  # the analysis says that there are numbers that are not finite
        result: Numbers = values * factor + offset
    return result.reshape(*weight.shape[:-1], -1)


def _floats(mode: str, weight: StoredTensor, scales: StoredTensor) -> Numbers:
    words = unpacked(codes(weight), _MODES[mode].bits, -1)
    values = _of_e4m3(words.astype(np.uint8)) if mode == "mxfp8" else E2M1[words]
    with np.errstate(over="ignore", invalid="ignore"):
        result: Numbers = values.reshape(*scales.shape, -1) * _factors(mode, codes(scales))[..., None]
    return result.reshape(*weight.shape[:-1], -1)


def _factors(mode: str, stored: NDArray[np.uint8]) -> Numbers:
    return _of_e4m3(stored) if mode == "nvfp4" else powers_of_two(stored)


def _of_e4m3(stored: NDArray[np.uint8]) -> Numbers:
    return float8.decode(stored, "float8_e4m3fn").astype(np.float32)
