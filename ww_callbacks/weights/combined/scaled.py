"""Codes of eight bits with one scale for the tensor, for each row, or for each block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

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
    require_real,
)
from ww_callbacks.weights.combined.packing import powers_of_two
from ww_callbacks.weights.tensor import StoredTensor

USUAL_BLOCK = 128
"""Side of a block if nothing states it."""
_INT8_RANGE = 127


def scaled(group: Group, config: Config) -> Iterator[Combined]:
    """Codes of 8-bit floats or integers times a scale, as DeepSeek, compressed-tensors, FBGEMM and ComfyUI store them.

    The weight is (code - zero point) · scale, also where the scale is called ``weight_scale_inv``. The size of blocks
    is that of ``weight_block_size`` in the configuration. Without it, the sides of the scales have to allow one size
    only, which is 128 if they do not divide those of the weight.

    Args:
        group: tensors of a module.
        config: the configuration beside the file.
    """
    for name, weight in group.items():
        if not (weight.is_float8 or weight.dtype == "int8") or len(weight.shape) < 2:
            continue
        scale = next((each for each in _names(name, ("scale_inv", "scale")) if each in group), None)
        if scale is None:
            continue
        zero = next((each for each in _names(name, ("zero_point",)) if each in group), None)
        factors, zeros = group[scale], None if zero is None else group[zero]
        if factors.dtype == "uint8" and weight.is_float8:  # MXFP8
            factors = replace(factors, dtype="float32", read=partial(_powers, factors))
        require_floats(factors)
        sizes = block_of(weight.shape, factors.shape, config.get("weight_block_size"))
        if zeros is not None:
            require_real(zeros)
            require(zeros.shape == factors.shape, f"{zero} of shape {zeros.shape}, {scale} {factors.shape}")
        tensors = (weight, factors, *(() if zeros is None else (zeros,)))
        read: Callable[[], Numbers] = partial(_product, sizes, *tensors)
        if len(weight.shape) > 2:
            read = Stack(partial(_product, sizes), tensors, weight.shape[0])
        parts = (name, scale, *(() if zero is None else (zero,)))
        yield Combined(name, parts, weight.shape, read)


def vectorwise(group: Group, config: Config) -> Iterator[Combined]:
    """Weights of bitsandbytes (LLM.int8): code · SCB / 127, with one SCB per row.

    Args:
        group: tensors of a module.
        config: not used.
    """
    weight, scale = group.get("weight"), group.get("SCB")
    if weight is None or scale is None or weight.dtype != "int8":
        return
    require(len(weight.shape) == 2 and scale.shape == weight.shape[:1], f"SCB of shape {scale.shape}")
    require_floats(scale)
    parts = ["weight", "SCB"]
    if "weight_format" in group:
        parts.append("weight_format")
        require(not codes(group["weight_format"]).any(), "weight_format is not that of rows")
    yield Combined("weight", tuple(parts), weight.shape, partial(_vectorwise, weight, scale))


def _names(name: str, kinds: Sequence[str]) -> list[str]:
    """Where the scale or the zero point of a weight may be."""
    own = [each for kind in kinds for each in (f"{name}_{kind}", f"{name}.{kind}")]
    return own + [each for kind in kinds for each in (f"{kind}_weight", kind) if name == "weight"]


def block_of(shape: tuple[int, ...], scales: tuple[int, ...], stated: Sequence[int] | None = None) -> tuple[int, ...]:
    """Number of elements along each axis that share one scale.

    Args:
        shape: of the weight.
        scales: shape of the scales.
        stated: sides of a block along the last axes; None if unknown.

    Raises:
        UnfitError: the scales do not fit, or more than one size of the blocks fits.

    Example:
        >>> block_of((256, 320), (2, 3)), block_of((64, 32), (64,)), block_of((64, 32), ())
        ((128, 128), (1, 32), (64, 32))
    """
    if np.prod(scales, dtype=np.int64) == 1:
        return shape
    padded = scales + (1,) * (len(shape) - len(scales)) if len(scales) == 1 else scales
    require(len(padded) == len(shape), f"scales of shape {scales} for a weight of shape {shape}")
    given = (None,) * (len(shape) - len(stated or ())) + tuple(stated or ())
    return tuple(_side(*each, shape, scales) for each in zip(shape, padded, given, strict=True))


def _side(length: int, count: int, stated: object, shape: tuple[int, ...], scales: tuple[int, ...]) -> int:
    if count in (1, length):
        return length if count == 1 else 1
    if isinstance(stated, int) and stated > 0 and -(-length // stated) == count:
        return stated
    exact = {length // count} if count > 0 and length % count == 0 else set()
    usual = {USUAL_BLOCK} if -(-length // USUAL_BLOCK) == count else set()
    fits = exact | usual
    if len(fits) != 1:
        raise UnfitError(f"scales of shape {scales} do not tell the blocks of a weight of shape {shape}")
    return fits.pop()


def _powers(scale: StoredTensor) -> Numbers:
    return powers_of_two(codes(scale))


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _product(
    sizes: tuple[int, ...], weight: StoredTensor, scale: StoredTensor, zeros: StoredTensor | None = None
) -> Numbers:
    values = numbers(weight)
    if zeros is not None:
        values = values - spread(numbers(zeros), sizes, weight.shape)
    return values * spread(numbers(scale), sizes, weight.shape)


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _vectorwise(weight: StoredTensor, scale: StoredTensor) -> Numbers:
    return numbers(weight) * (numbers(scale) / np.float32(_INT8_RANGE))[:, None]


def spread(scales: Numbers, sizes: tuple[int, ...], shape: tuple[int, ...]) -> Numbers:
    """The scale of each element, as an array that broadcasts to the shape of the weight.

    Example:
        >>> spread(np.array([[1.0, 2.0]], np.float32), (1, 2), (1, 3)).tolist()
        [[1.0, 1.0, 2.0]]
    """
    if scales.size == 1:
        return scales.reshape((1,) * len(shape))
    counts = tuple(-(-length // size) for length, size in zip(shape, sizes, strict=True))
    spread_out = scales.reshape(counts)
    for axis, (size, length, count) in enumerate(zip(sizes, shape, counts, strict=True)):
        if count > 1 and size > 1:
            spread_out = np.take(spread_out, np.arange(length) // size, axis)
    return spread_out
