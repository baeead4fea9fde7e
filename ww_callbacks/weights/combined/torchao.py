"""Weights of torchao, whose files say of which class and which weight a tensor is a part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ww_callbacks.report import Skip
from ww_callbacks.weights.combined.group import (
    Combined,
    Config,
    Group,
    Numbers,
    UnfitError,
    codes,
    numbers,
    require,
    require_floats,
    require_real,
)
from ww_callbacks.weights.combined.packing import nibbles
from ww_callbacks.weights.combined.scaled import spread
from ww_callbacks.weights.tensor import PartOf, StoredTensor

Described = Callable[[Any], tuple[str, Mapping[str, Any]] | None]

_PACKAGE = "torchao."
_MAX_DEPTH = 3
_WHOLE = ("Int8Tensor", "Float8Tensor", "IntxUnpackedToInt8Tensor")
"""Classes with one code per number: (code - zero point) · scale."""
_NIBBLES = "Int4Tensor"
"""The class with two codes per byte: code · scale + zero point."""
_OF_WEIGHTS = ("qdata", "scale", "zero_point", "act_pre_scale")
_OF_ACTIVATIONS = ("act_quant_scale", "act_quant_zero_point")


def parts_of(name: str, tensor: Any, described: Described) -> Iterator[tuple[str, Any, PartOf]]:
    """The tensors inside a tensor of torchao, under the names that its safetensors files use.

    Args:
        name: of the tensor.
        tensor: of any class; others than those of torchao have no parts.
        described: gives the class of a tensor with its module, and its attributes; None for what is no tensor.
    """
    found = described(tensor)
    if found is None or not found[0].startswith(_PACKAGE):
        return
    (module, dot, weight), stated = name.rpartition("."), found[1].get("block_size")
    facts = {"block_size": list(stated)} if isinstance(stated, (list, tuple)) else {}
    for part, inner in _inside(found[1], described):
        yield f"{module}{dot}_{weight}_{part}", inner, PartOf(weight, part, found[0].rpartition(".")[2], facts)


def _inside(attributes: Mapping[str, Any], described: Described, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Attributes that are tensors. Older classes have them one inside the other."""
    for attribute, value in attributes.items():
        found = described(value)
        if found is None:
            continue
        if found[0].startswith(_PACKAGE) and depth < _MAX_DEPTH:
            inside = _inside(found[1], described, depth + 1)
            yield from ((f"{attribute}_{part}", inner) for part, inner in inside)
        else:
            yield attribute, value


def torchao(group: Group, config: Config) -> Iterator[Combined]:
    """Weights of torchao's classes for int8, fp8, int4 and other small integers.

    The scale of the inputs (``act_pre_scale``), with which the layer multiplies them first, belongs to the weight.

    Args:
        group: tensors of a module.
        config: not used.
    """
    weights: dict[str, dict[str, str]] = {}
    for name, tensor in group.items():
        if tensor.part_of is not None:
            weights.setdefault(tensor.part_of.weight, {})[tensor.part_of.name] = name
    for weight, names in weights.items():
        parts = {part: group[name] for part, name in names.items()}
        try:
            shape, read = _multiplied_out(parts)
        except UnfitError as error:
            shape = next(iter(parts.values())).shape
            skip = Skip("quantized", f"stored as {', '.join(names.values())}; {error}")
            yield Combined(weight, tuple(names.values()), shape, skip=skip)
        else:
            yield Combined(weight, tuple(names.values()), shape, read)


def _multiplied_out(parts: Group) -> tuple[tuple[int, ...], Callable[[], Numbers]]:
    """The shape of a weight and what multiplies it out."""
    part = next(iter(parts.values())).part_of
    assert part is not None
    require(part.cls in (*_WHOLE, _NIBBLES), f"torchao's {part.cls} is not known")
    others = [name for name in parts if name not in _OF_WEIGHTS + _OF_ACTIVATIONS]
    require(not others, f"{part.cls} has no {', '.join(others)}")
    require("qdata" in parts and "scale" in parts, f"{part.cls} without qdata or scale")
    weight, scale, zeros, inputs = parts["qdata"], parts["scale"], parts.get("zero_point"), parts.get("act_pre_scale")
    require(0 not in weight.shape, f"qdata of shape {weight.shape}")
    require_floats(scale, *(() if inputs is None else (inputs,)))
    if zeros is not None:
        require_real(zeros)
        require(zeros.shape == scale.shape, f"zero_point of shape {zeros.shape}, scale {scale.shape}")
    if part.cls == _NIBBLES:
        shape = (*weight.shape[:-1], 2 * weight.shape[-1])
        sizes = _sizes(shape, (*scale.shape[:-2], *scale.shape[:-3:-1]), part.facts)
        require(weight.dtype == "int8" and zeros is not None, f"qdata of dtype {weight.dtype}, or no zero_point")
        assert zeros is not None
        read: Callable[[], Numbers] = partial(_of_nibbles, weight, scale, zeros, sizes)
    else:
        shape, sizes = weight.shape, _sizes(weight.shape, scale.shape, part.facts)
        is_code = weight.is_float8 if part.cls == "Float8Tensor" else weight.dtype == "int8"
        require(is_code, f"{part.cls} with qdata of dtype {weight.dtype}")
        read = partial(_of_codes, weight, scale, zeros, sizes)
    if inputs is None:
        return shape, read
    require(math.prod(inputs.shape) == shape[-1], f"act_pre_scale of shape {inputs.shape}")
    return shape, partial(_with_scaled_inputs, read, inputs)


def _sizes(shape: tuple[int, ...], scales: tuple[int, ...], facts: Any) -> tuple[int, ...]:
    """Number of elements along each axis that share one scale; torchao divides every axis evenly."""
    if math.prod(scales) == 1:
        return shape
    fits = len(scales) == len(shape) and all(
        count > 0 and side % count == 0 for side, count in zip(shape, scales, strict=True)
    )
    require(fits, f"scale of shape {scales} for a weight of shape {shape}")
    sizes = tuple(side // count for side, count in zip(shape, scales, strict=True))
    stated = facts.get("block_size")
    require(stated is None or stated == list(sizes), f"block_size {stated}, but scale has shape {scales}")
    return sizes


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _of_codes(weight: StoredTensor, scale: StoredTensor, zeros: StoredTensor | None, sizes: Sequence[int]) -> Numbers:
    values, shape = numbers(weight), weight.shape
    if zeros is not None:
        values = values - spread(numbers(zeros), tuple(sizes), shape)
    return values * spread(numbers(scale), tuple(sizes), shape)


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _of_nibbles(weight: StoredTensor, scale: StoredTensor, zeros: StoredTensor, sizes: Sequence[int]) -> Numbers:
    octets = np.ascontiguousarray(codes(weight)).view(np.uint8)
    values = ((nibbles(octets, high_first=False) ^ 8).astype(np.int8) - 8).astype(np.float32)
    factor, shift = (spread(numbers(each).swapaxes(-1, -2), tuple(sizes), values.shape) for each in (scale, zeros))
    result: Numbers = values * factor + shift
    return result


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _with_scaled_inputs(read: Callable[[], Numbers], inputs: StoredTensor) -> Numbers:
    return read() * numbers(inputs).ravel()
