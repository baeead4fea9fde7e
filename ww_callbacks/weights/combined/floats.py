"""Four-bit numbers with a scale per block: NF4 and FP4 of bitsandbytes, MXFP4, NVFP4."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from ww_callbacks.weights.combined.packing import E2M1, nibbles, powers_of_two
from ww_callbacks.weights.tensor import StoredTensor

MAX_STATE_BYTES = 2**16
_MX_BLOCK = 32
_NV_BLOCK = 16


def blockwise(group: Group, config: Config) -> Iterator[Combined]:
    """Weights of bitsandbytes in four bits: quant_map[code] · absmax of the block (Dettmers et al., QLoRA, 2023).

    With nested quantisation, absmax is itself nested_quant_map[code] · nested_absmax + offset.

    Args:
        group: tensors of a module.
        config: not used.
    """
    for name in [name for name in group if f"{name}.absmax" in group]:
        yield _blockwise(group, name)


def _blockwise(group: Group, name: str) -> Combined:
    inner = {each.removeprefix(f"{name}."): each for each in group if each.startswith(f"{name}.")}
    states = [each for each in inner if each.startswith("quant_state.bitsandbytes__")]
    require(len(states) == 1 and "quant_map" in inner, f"{name} without its quant_state or quant_map")
    state = _state(group[inner[states[0]]])
    shape, block = tuple(state["shape"]), state["blocksize"]
    weight, absmax, table = group[name], group[inner["absmax"]], group[inner["quant_map"]]
    count = math.prod(shape)
    blocks = -(-count // block)
    require(weight.dtype == "uint8" and math.prod(weight.shape) == -(-count // 2), f"{name} of shape {weight.shape}")
    require(table.shape == (16,), f"quant_map of shape {table.shape}")
    require(math.prod(absmax.shape) == blocks, f"absmax of shape {absmax.shape} for {blocks} blocks")
    nested = None
    if "nested_absmax" in inner:
        require("nested_quant_map" in inner and absmax.dtype == "uint8", "nested_absmax without nested_quant_map")
        outer, values = group[inner["nested_absmax"]], group[inner["nested_quant_map"]]
        size: Any = state.get("nested_blocksize")
        require(type(size) is int and size > 0 and values.shape == (256,), "nested blocks that do not fit")
        require(math.prod(outer.shape) == -(-blocks // size), f"nested_absmax of shape {outer.shape}")
        nested = (outer, values, size, float(state.get("nested_offset", 0.0)))
    else:
        require_floats(absmax)
    require_floats(table, *(() if nested is None else nested[:2]))
    read = partial(_of_blocks, weight, absmax, table, nested, shape, block)
    return Combined(name, (name, *inner.values()), shape, read)


def _state(tensor: StoredTensor) -> dict[str, Any]:
    require(tensor.dtype == "uint8" and math.prod(tensor.shape) <= MAX_STATE_BYTES, "quant_state is no text")
    try:
        state = json.loads(codes(tensor).tobytes())
    except (ValueError, RecursionError) as error:
        raise UnfitError(f"quant_state: {error}") from error
    shape = state.get("shape") if isinstance(state, dict) else None
    is_shape = isinstance(shape, list) and all(type(side) is int and side > 0 for side in shape)
    require(is_shape and type(state.get("blocksize")) is int and state["blocksize"] > 0, "quant_state without shape")
    require(isinstance(state.get("nested_offset", 0.0), (int, float)), "quant_state: nested_offset is no number")
    return dict(state)


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _of_blocks(
    weight: StoredTensor,
    absmax: StoredTensor,
    table: StoredTensor,
    nested: tuple[StoredTensor, StoredTensor, int, float] | None,
    shape: tuple[int, ...],
    block: int,
) -> Numbers:
    count = math.prod(shape)
    each = nibbles(codes(weight).ravel(), high_first=True)[:count]
    if nested is None:
        scales = numbers(absmax).ravel()
    else:
        outer, values, size, offset = nested
        which = codes(absmax).ravel()
        scales = numbers(values)[which] * numbers(outer).ravel()[np.arange(len(which)) // size] + np.float32(offset)
    result: Numbers = numbers(table)[each] * np.repeat(scales, block)[:count]
    return result.reshape(shape)


def microscaled(group: Group, config: Config) -> Iterator[Combined]:
    """Weights in MXFP4, as gpt-oss and compressed-tensors store them: E2M1 codes times 2ˢ per 32 numbers.

    Args:
        group: tensors of a module.
        config: not used.
    """
    for name in [name.removesuffix("_blocks") for name in group if name.endswith("_blocks")]:
        blocks, scales = group[f"{name}_blocks"], group.get(f"{name}_scales")
        if scales is None or not blocks.dtype == scales.dtype == "uint8":
            continue
        require(
            len(blocks.shape) >= 3 and blocks.shape[-1] == _MX_BLOCK // 2 and scales.shape == blocks.shape[:-1],
            f"{name}_blocks of shape {blocks.shape} and {name}_scales {scales.shape} do not fit",
        )
        shape = (*blocks.shape[:-2], blocks.shape[-2] * _MX_BLOCK)
        read = Stack(_microscaled, (blocks, scales), shape[0])
        yield Combined(name, (f"{name}_blocks", f"{name}_scales"), shape, read)
    weight, scales = group.get("weight_packed"), group.get("weight_scale")
    if weight is None or scales is None or not (weight.dtype == scales.dtype == "uint8"):
        return
    require(
        len(weight.shape) >= 2 and scales.shape == (*weight.shape[:-1], weight.shape[-1] * 2 // _MX_BLOCK),
        f"weight_packed of shape {weight.shape} and weight_scale {scales.shape} do not fit",
    )
    shape = (*weight.shape[:-1], 2 * weight.shape[-1])
    read = Stack(_microscaled, (weight, scales), shape[0])
    yield Combined("weight", ("weight_packed", "weight_scale"), shape, read)


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _microscaled(blocks: StoredTensor, scales: StoredTensor) -> Numbers:
    values = E2M1[nibbles(codes(blocks), high_first=False)]
    exponents: NDArray[np.uint8] = codes(scales)
    result: Numbers = values.reshape(*exponents.shape, _MX_BLOCK) * powers_of_two(exponents)[..., None]
    return result.reshape(*exponents.shape[:-1], -1)


def nvidia(group: Group, config: Config) -> Iterator[Combined]:
    """Weights in NVFP4: E2M1 codes times an FP8 scale per 16 numbers, and one scale for the tensor.

    ModelOpt stores the latter as ``weight_scale_2``, a factor, and compressed-tensors as ``weight_global_scale``, a
    divisor.

    Args:
        group: tensors of a module.
        config: not used.
    """
    forms = (("weight", "weight_scale_2", False), ("weight_packed", "weight_global_scale", True))
    for name, outer, divides in forms:
        weight, scales, overall = group.get(name), group.get("weight_scale"), group.get(outer)
        if weight is None or scales is None or overall is None or weight.dtype != "uint8":
            continue
        require(scales.is_float8, f"weight_scale of dtype {scales.dtype}")
        require(
            len(weight.shape) >= 2 and scales.shape == (*weight.shape[:-1], weight.shape[-1] * 2 // _NV_BLOCK),
            f"{name} of shape {weight.shape} and weight_scale {scales.shape} do not fit",
        )
        require(math.prod(overall.shape) == 1, f"{outer} of shape {overall.shape}")
        require_floats(scales, overall)
        shape = (*weight.shape[:-1], 2 * weight.shape[-1])
        read = Stack(partial(_nvidia, divides), (weight, scales, overall), shape[0])
        yield Combined("weight", (name, "weight_scale", outer), shape, read)


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _nvidia(divides: bool, weight: StoredTensor, scales: StoredTensor, overall: StoredTensor) -> Numbers:
    values = E2M1[nibbles(codes(weight), high_first=False)]
    factor = numbers(overall).reshape(())
    scale = numbers(scales) / factor if divides else numbers(scales) * factor
    result: Numbers = values.reshape(*scales.shape, _NV_BLOCK) * scale[..., None]
    return result.reshape(*scales.shape[:-1], -1)
