"""Integers of a few bits in 32-bit words, with scales and zero points for groups of inputs: GPTQ, AWQ and others."""

from __future__ import annotations

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
    UnfitError,
    codes,
    numbers,
    require,
    require_floats,
)
from ww_callbacks.weights.combined.packing import unpacked
from ww_callbacks.weights.combined.scaled import block_of, spread
from ww_callbacks.weights.tensor import StoredTensor

GPTQ_BITS, WORD_BITS = (2, 3, 4, 8), (2, 4, 8)
"""Bits per number. Versions of compressed-tensors differ in how they pack numbers of three bits and others."""

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs each nibble of a word holds, lowest nibble first."""

_PLUS_ONE, _AS_STORED = 1, 0


def gptq(group: Group, config: Config) -> Iterator[Combined]:
    """Weights of GPTQ and AWQ: (q - z) · s with a zero point z and a scale s per group of inputs and output.

    GPTQ packs q along the inputs, AWQ along the outputs. GPTQ stores z - 1 in its first format and z in the second
    (``"checkpoint_format": "gptq_v2"``). Without a configuration, the zero points tell the formats apart if they are
    all those of symmetric quantisation.

    Args:
        group: tensors of a module.
        config: the configuration beside the file.
    """
    weight, scales, zeros, order = (group.get(name) for name in ("qweight", "scales", "qzeros", "g_idx"))
    if weight is None or scales is None or zeros is None:
        return
    for name, tensor in {"qweight": weight, "scales": scales, "qzeros": zeros}.items():
        require(len(tensor.shape) == 2 and 0 not in tensor.shape, f"{name} of shape {tensor.shape}")
    require(weight.dtype == zeros.dtype == "int32", f"qweight of dtype {weight.dtype}, qzeros of {zeros.dtype}")
    require_floats(scales)
    groups, outputs = scales.shape
    parts = tuple(name for name in ("qweight", "scales", "qzeros", "g_idx") if name in group)
    if weight.shape[1] * 8 == outputs:
        inputs = weight.shape[0]
        require(zeros.shape == (groups, outputs // 8) and inputs % groups == 0, _shapes(weight, scales, zeros))
        yield Combined("weight", parts, (outputs, inputs), partial(_awq, weight, scales, zeros))
        return
    require(weight.shape[1] == outputs and zeros.shape[0] == groups, _shapes(weight, scales, zeros))
    bits, rest = divmod(32 * zeros.shape[1], outputs)
    require(rest == 0 and bits in GPTQ_BITS, _shapes(weight, scales, zeros))
    inputs, rest = divmod(32 * weight.shape[0], bits)
    require(rest == 0 and (order is not None or inputs % groups == 0), _shapes(weight, scales, zeros))
    _check_order(order, inputs, groups)
    shift = _zero_shift(zeros, bits, config)
    read = partial(_gptq, weight, scales, zeros, order, bits, shift)
    yield Combined("weight", parts, (outputs, inputs), read)


def packed_in_words(group: Group, config: Config) -> Iterator[Combined]:
    """Weights of compressed-tensors ("pack-quantized"): (q - z) · s, with q stored as q + 2ᵇ⁻¹ in b bits.

    Args:
        group: tensors of a module.
        config: not used.
    """
    weight, scales, sizes = (group.get(name) for name in ("weight_packed", "weight_scale", "weight_shape"))
    if weight is None or weight.dtype != "int32" or scales is None or sizes is None:
        return
    shape = tuple(int(size) for size in codes(sizes).ravel())
    require(len(shape) == len(weight.shape) == 2 and min(shape) > 0 and weight.shape[0] == shape[0], f"shape {shape}")
    require_floats(scales)
    fits = [bits for bits in WORD_BITS if -(-shape[1] * bits // 32) == weight.shape[1]]
    require(len(fits) == 1, f"weight_packed of shape {weight.shape} for a weight of shape {shape}")
    bits = fits[0]
    zeros, order = group.get("weight_zero_point"), group.get("weight_g_idx")
    blocks = block_of(shape, scales.shape) if order is None else None
    if order is not None:
        require(len(scales.shape) == 2 and scales.shape[0] in (1, shape[0]), f"weight_scale of shape {scales.shape}")
        _check_order(order, shape[1], scales.shape[1])
    if zeros is not None:
        require(zeros.dtype in ("int8", "int32"), f"weight_zero_point of dtype {zeros.dtype}")
        rows = -(-scales.shape[0] * bits // 32) if zeros.dtype == "int32" else scales.shape[0]
        require(zeros.shape == (rows, *scales.shape[1:]), f"weight_zero_point of shape {zeros.shape}")
    names = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
    parts = tuple(name for name in names if name in group)
    read = partial(_packed, weight, scales, zeros, order, shape, bits, blocks)
    yield Combined("weight", parts, shape, read)


def _shapes(weight: StoredTensor, scales: StoredTensor, zeros: StoredTensor) -> str:
    return f"qweight of shape {weight.shape}, qzeros {zeros.shape} and scales {scales.shape} do not fit"


def _check_order(order: StoredTensor | None, inputs: int, groups: int) -> None:
    """Whether each input has one of the groups."""
    if order is not None:
        fits = order.shape == (inputs,) and order.dtype == "int32"
        require(fits, f"g_idx of shape {order.shape} for {inputs} inputs")
        which = codes(order)
        require(0 <= int(which.min()) <= int(which.max()) < groups, f"g_idx names group {int(which.max())} of {groups}")


def _zero_shift(zeros: StoredTensor, bits: int, config: Config) -> int:
    """What is added to a stored zero point."""
    stated = config.get("checkpoint_format")
    if stated in ("gptq", "gptq_v2"):
        return _PLUS_ONE if stated == "gptq" else _AS_STORED
    if stated is None and config.get("quant_method") == "gptq":  # written before there was a second format
        return _PLUS_ONE
    found = np.unique(unpacked(codes(zeros), bits, 1))
    if found.tolist() == [2 ** (bits - 1) - 1]:
        return _PLUS_ONE
    if found.tolist() == [2 ** (bits - 1)]:
        return _AS_STORED
    raise UnfitError("no config.json beside the file says whether its format is gptq or gptq_v2")


def _gptq(
    weight: StoredTensor, scales: StoredTensor, zeros: StoredTensor, order: StoredTensor | None, bits: int, shift: int
) -> Numbers:
    values = unpacked(codes(weight), bits, 0)
    points = (unpacked(codes(zeros), bits, 1) + shift) & (2**bits - 1)
    return _grouped(values, points, numbers(scales), None if order is None else codes(order)).T


def _awq(weight: StoredTensor, scales: StoredTensor, zeros: StoredTensor) -> Numbers:
    values, points = (_in_order(codes(tensor)) for tensor in (weight, zeros))
    return _grouped(values, points, numbers(scales), None).T


def _in_order(words: NDArray[Any]) -> NDArray[np.int32]:
    each = unpacked(words, 4, 1).reshape(len(words), -1, 8)
    return each[..., np.argsort(AWQ_ORDER)].reshape(len(words), -1)


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _grouped(
    values: NDArray[np.int32], points: NDArray[np.int32], scales: Numbers, order: NDArray[Any] | None
) -> Numbers:
    """(q - z) · s for q of shape (inputs, outputs)."""
    if order is None:
        order = np.arange(len(values)) // (len(values) // len(scales))
    weight: Numbers = (values - points[order]).astype(np.float32) * scales[order]
    return weight


@np.errstate(all="ignore")  # the analysis says that there are numbers that are not finite
def _packed(
    weight: StoredTensor,
    scales: StoredTensor,
    zeros: StoredTensor | None,
    order: StoredTensor | None,
    shape: tuple[int, ...],
    bits: int,
    blocks: tuple[int, ...] | None,
) -> Numbers:
    offset = 2 ** (bits - 1)
    values: Numbers = (unpacked(codes(weight), bits, 1)[:, : shape[1]] - offset).astype(np.float32)
    scale = numbers(scales)
    points = np.zeros_like(scale)
    if zeros is not None:
        stored = codes(zeros)
        if zeros.dtype == "int32":
            stored = unpacked(stored, bits, 0)[: len(scale)] - offset
        points = stored.reshape(scale.shape).astype(np.float32)
    if order is not None:
        which = codes(order)
        values = (values - points[:, which]) * scale[:, which]
    else:
        assert blocks is not None
        values = (values - spread(points, blocks, shape)) * spread(scale, blocks, shape)
    return values
