"""What the weights of torch's modules hold: matrices by the class of the module, or the reason why none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import nn

from ww_callbacks.weights.kinds import DEPTHWISE, IN_OUT, OUT_IN, PROJECTIONS, TORCH_GATES, Kind, embedding
from ww_callbacks.weights.torch.effective import Weight

Rule = Callable[[str, nn.Module, Mapping[str, Weight], int], dict[str, tuple[str, Kind]]]
"""Word for the kind, module, its weights and max_rows → name of a weight → suffix of the layer's name, and its kind."""

_GATES = (((nn.LSTM, nn.LSTMCell), TORCH_GATES["LSTM"]), ((nn.GRU, nn.GRUCell), TORCH_GATES["GRU"]))
_NORMS = tuple(
    getattr(nn, name)
    for name in ("LayerNorm", "RMSNorm", "GroupNorm", "LocalResponseNorm")
    if hasattr(nn, name)  # RMSNorm came with torch 2.4
)


def rule_of(module: nn.Module) -> Rule | None:
    """The rule for a module, None where there is none."""
    cls: Any = type(module)
    return _rule_of_class(cls)


@lru_cache(4096)  # parametrised modules have a class each
def _rule_of_class(cls: type) -> Rule | None:
    return next((rule for classes, rule in _rules() if issubclass(cls, classes)), None)


def _linear(word: str, module: nn.Module, weights: Mapping[str, Weight], max_rows: int) -> dict[str, tuple[str, Kind]]:
    return {"weight": ("", Kind(word, OUT_IN))}


def _hf_conv1d(
    word: str, module: nn.Module, weights: Mapping[str, Weight], max_rows: int
) -> dict[str, tuple[str, Kind]]:
    return {"weight": ("", Kind(word, IN_OUT))}


def _embedding(
    word: str, module: nn.Module, weights: Mapping[str, Weight], max_rows: int
) -> dict[str, tuple[str, Kind]]:
    return {"weight": ("", embedding(word, weights["weight"].shape, max_rows))} if "weight" in weights else {}


def _bilinear(
    word: str, module: nn.Module, weights: Mapping[str, Weight], max_rows: int
) -> dict[str, tuple[str, Kind]]:
    return {"weight": ("", Kind(word, reason="a bilinear form for each output, no matrix"))}


def _norm(word: str, module: nn.Module, weights: Mapping[str, Weight], max_rows: int) -> dict[str, tuple[str, Kind]]:
    return {"weight": ("", Kind(word, reason="weights of a normalisation, no matrix"))}


def _convolution(word: str, module: Any, weights: Mapping[str, Weight], max_rows: int) -> dict[str, tuple[str, Kind]]:
    """(outputs, inputs per group, positions…); transposed ones (inputs, outputs per group, positions…)."""
    if "weight" not in weights or not weights["weight"].shape:
        return {}
    return {"weight": ("", convolution(word, weights["weight"].shape, module.groups, module.transposed))}


def convolution(word: str, shape: tuple[int, ...], groups: int, transposed: bool = False) -> Kind:
    """The matrices of a kernel: one per position and group, outputs × inputs.

    Args:
        word: the kind that the report shows.
        shape: (outputs, inputs per group, positions…), transposed (inputs, outputs per group, positions…).
        groups: the first axis is that many, one after the other.
        transposed: whether the convolution is.

    Example:
        >>> convolution("Conv2d", (6, 4, 3, 2), groups=2)
        Kind(word='Conv2d', axes=((3, 4, 0), (1,), (2,)), is_conv=True, reason='', parts=(), shape=(2, 3, 4, 3, 2))
    """
    first, second, *positions = shape
    if groups == 1:
        taps = tuple(range(2, len(shape)))
        return Kind(word, (taps, (1,), (0,)) if transposed else (taps, (0,), (1,)), is_conv=True)
    inputs = first // groups if transposed else second
    if inputs == 1:
        return Kind(word, reason=DEPTHWISE)
    taps = (*range(3, len(shape) + 1), 0)
    axes = (taps, (2,), (1,)) if transposed else (taps, (1,), (2,))
    return Kind(word, axes, is_conv=True, shape=(groups, first // groups, second, *positions))


def _recurrent(
    word: str, module: nn.Module, weights: Mapping[str, Weight], max_rows: int
) -> dict[str, tuple[str, Kind]]:
    """The gates stand below each other; each is a matrix of its own. ``weight_hr`` projects the hidden state."""
    gates = next((gates for classes, gates in _GATES if isinstance(module, classes)), ())
    return {
        key: (f".{key}", Kind(word, OUT_IN, parts=() if key.startswith("weight_hr") else gates))
        for key in weights
        if key.startswith("weight_")
    }


def _attention(
    word: str, module: nn.Module, weights: Mapping[str, Weight], max_rows: int
) -> dict[str, tuple[str, Kind]]:
    """``in_proj_weight`` holds the projections of queries, keys and values below each other."""
    kinds = {f"{part}_proj_weight": (f".{part}", Kind(word, OUT_IN)) for part in PROJECTIONS}
    return kinds | {"in_proj_weight": ("", Kind(word, OUT_IN, parts=PROJECTIONS))}


_FUSED = "transformers.models.gpt2.modeling_gpt2", "GPT2Attention"
_RULES: tuple[tuple[tuple[type, ...], Rule], ...] = (
    ((nn.Linear,), _linear),
    ((nn.modules.conv._ConvNd,), _convolution),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
    ((nn.MultiheadAttention,), _attention),
    ((nn.Bilinear,), _bilinear),
    (_NORMS, _norm),
)


def _rules() -> tuple[tuple[tuple[type, ...], Rule], ...]:
    """With those for classes of other packages, where somebody has imported them."""
    cls = foreign("transformers.pytorch_utils", "Conv1D")
    return _RULES if cls is None else (*_RULES, ((cls,), _hf_conv1d))


def foreign(module: str, name: str) -> type | None:
    """A class of another package, None where nobody has imported it."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def fused_parts(module: nn.Module) -> dict[int, tuple[str, ...]]:
    """For a module whose class fuses projections in one of its layers: identity of that layer → its parts in order."""
    cls = foreign(*_FUSED)
    if cls is None or not isinstance(module, cls) or not hasattr(module, "c_attn"):
        return {}
    _, *key_and_value = PROJECTIONS
    return {id(module.c_attn): tuple(key_and_value) if getattr(module, "is_cross_attention", False) else PROJECTIONS}
