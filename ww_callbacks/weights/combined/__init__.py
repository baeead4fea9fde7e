"""Weights that files and models store as several tensors: quantised, pruned or normalised ones.

Each format has a function that recognises it by names, dtypes and shapes, and multiplies it out as the format says. A
weight in an unknown format is one tensor that cannot be read, so that no part of it is taken for a weight.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ww_callbacks.report import Skip, SkipReason
from ww_callbacks.weights.combined.computed import normalised, pruned, spectral
from ww_callbacks.weights.combined.floats import blockwise, microscaled, nvidia
from ww_callbacks.weights.combined.group import Combined, Config, Group, Recogniser, UnfitError, grouped
from ww_callbacks.weights.combined.integers import gptq, packed_in_words
from ww_callbacks.weights.combined.mlx import mlx
from ww_callbacks.weights.combined.scaled import scaled, vectorwise
from ww_callbacks.weights.combined.torchao import torchao
from ww_callbacks.weights.tensor import StoredTensor

RECOGNISERS: Sequence[Recogniser] = (
    pruned,
    normalised,
    spectral,
    torchao,
    gptq,
    packed_in_words,
    blockwise,
    microscaled,
    nvidia,
    mlx,
    vectorwise,
    scaled,
)
"""The first that recognises a tensor counts."""

CODES = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
"""Dtypes of quantised weights; tables of positions have 64 bits."""
_PART = re.compile(
    r"(^|[._])(scales?(_inv|_\d+)?|zeros?(_points?)?|qzeros|qscales?|absmax|quant_(map|state)|codebooks?|biases|g_idx|scb|weight_shape)($|[._])",
    re.IGNORECASE,
)
"""Names of tensors without which codes mean nothing."""
_COMPUTED = re.compile(r"(_orig|_mask|_g|_u|\.original0|\._u)$")
"""Names of the parts of weights that torch computes."""
_MASK = re.compile(r"(^|[._])(\w*mask|bias|tril)$")
"""Names of masks, which are stored in eight bits too."""
_OF_ACTIVATIONS = re.compile(r"(^|[._])(input|output|act(ivation)?|[kqv])_(global_)?(scale|zero_point)(_inv)?$")
"""Names of scales that belong to activations, not to weights."""
_NO_CONFIG: Mapping[str, Any] = {}


def combine(tensors: Sequence[StoredTensor], config: Config = _NO_CONFIG) -> list[StoredTensor]:
    """The same tensors, with those that make up one weight replaced by that weight.

    Args:
        tensors: of a state dict, named "module.parameter".
        config: the ``quantization_config`` beside the file.

    Returns:
        The weights are called as if they had been stored whole, usually "module.weight". One that cannot be multiplied
        out has a reason, :class:`~ww_callbacks.report.Skip`, that names its parts.

    Example:
        >>> import numpy as np
        >>> codes, scale = np.array([[1, 2], [3, -4]], np.int8), np.array([0.5, 0.25], np.float32)
        >>> (weight,) = combine(
        ...     [
        ...         StoredTensor("fc.weight", (2, 2), "int8", lambda: codes),
        ...         StoredTensor("fc.weight_scale", (2,), "float32", lambda: scale),
        ...     ]
        ... )
        >>> weight.name, weight.read().tolist()
        ('fc.weight', [[0.5, 1.0], [0.75, -1.0]])
    """
    if not any(_may_be_part(tensor) for tensor in tensors):
        return list(tensors)
    replaced: dict[str, StoredTensor | None] = {}
    for module, group in grouped(tensors).items():
        for found in _found(group, config):
            weight = found.tensor(module)
            replaced |= dict.fromkeys((group[part].name for part in found.parts), None)
            replaced[group[found.parts[0]].name] = weight
    result = (replaced.get(tensor.name, tensor) for tensor in tensors)
    return [_tied(tensor, replaced) for tensor in result if tensor is not None]


def _may_be_part(tensor: StoredTensor) -> bool:
    is_code = tensor.dtype in CODES or tensor.is_float8 or tensor.part_of is not None
    return is_code or _COMPUTED.search(tensor.name) is not None


def _found(group: Group, config: Config) -> Iterator[Combined]:
    left = dict(group)
    for recognise in RECOGNISERS:
        try:
            for found in list(recognise(left, config)):
                yield found
                left = {name: tensor for name, tensor in left.items() if name not in found.parts}
        except UnfitError as error:
            yield from _unreadable(left, str(error))
            return
    if _parts(left):
        yield from _unreadable(left, "this format is not known")


def _parts(group: Group) -> tuple[str, ...]:
    """Codes and what belongs to them, the largest codes first; none if there are no codes or only codes."""
    codes = (name for name, tensor in group.items() if tensor.dtype in CODES or tensor.is_float8)
    all_codes = [name for name in codes if not _MASK.search(name)]
    beside = [name for name in group if _PART.search(name) and not _OF_ACTIVATIONS.search(name)]
    stored = [name for name in all_codes if len(group[name].shape) >= 2 and name not in beside]
    if not stored or not beside:
        return ()
    stored.sort(key=lambda name: -math.prod(group[name].shape))
    others = (name for name in group if name in all_codes or name in beside or _OF_ACTIVATIONS.search(name))
    return (stored[0], *(name for name in others if name != stored[0]))


def _unreadable(group: Group, problem: str) -> Iterator[Combined]:
    parts = _parts(group)
    reason: SkipReason = "quantized" if parts else "computed"
    parts = parts or tuple(name for name, tensor in group.items() if len(tensor.shape) >= 2)
    if parts:
        detail = f"stored as {', '.join(parts)}; {problem}"
        yield Combined("weight", parts, group[parts[0]].shape, skip=Skip(reason, detail))


def _tied(tensor: StoredTensor, replaced: Mapping[str, StoredTensor | None]) -> StoredTensor:
    weight = replaced.get(tensor.same_as)
    return tensor if weight is None else replace(tensor, same_as=weight.name)
