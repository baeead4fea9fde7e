"""What the weights of torch's modules hold: matrices by the class of the module, or the reason why there are none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

from ww_callbacks.weights.classes import CLASSES, GATES, PROJECTIONS
from ww_callbacks.weights.kinds import OUT_IN, Kind, embedding, grouped_convolution
from ww_callbacks.weights.rule import Rule, kinds_by_name
from ww_callbacks.weights.torch.effective import Weight

Kinds = dict[str, tuple[str, Kind]]
"""Name of a weight → suffix of the layer's name, and how the weight is interpreted."""

_GATES = (((nn.LSTM, nn.LSTMCell), GATES["LSTM"]), ((nn.GRU, nn.GRUCell), GATES["GRU"]))


@dataclass(frozen=True, slots=True)
class Holder:
    """A module as the rules see it.

    Attributes:
        word: the kind that the report shows.
        module: the module.
        weights: name → weight.
    """

    word: str
    module: Any
    weights: Mapping[str, Weight]


def kinds_of(holder: Holder) -> Kinds:
    """What the weights of a module hold, by its class; nothing if no rule knows the class."""
    cls: Any = type(holder.module)
    rule = _rule_of_class(cls)
    if rule is None:
        return {}
    if callable(rule):
        return rule(holder)
    return kinds_by_name(rule, holder.word, {key: weight.shape for key, weight in holder.weights.items()})


@lru_cache(4096)  # parametrised modules have a class each
def _rule_of_class(cls: type) -> Mapping[str, Rule] | Callable[[Holder], Kinds] | None:
    for classes, rule in _RULES:
        if issubclass(cls, classes):
            return rule
    known = ((foreign(*path.rsplit(".", 1)), rules) for path, rules in CLASSES.items())
    return next((rules for base, rules in known if base is not None and issubclass(cls, base)), None)


def _embedding(holder: Holder) -> Kinds:
    if "weight" not in holder.weights:
        return {}
    return {"weight": ("", embedding(holder.word, holder.weights["weight"].shape))}


def _convolution(holder: Holder) -> Kinds:
    """(outputs, inputs per group, positions…); transposed ones (inputs, outputs per group, positions…)."""
    if "weight" not in holder.weights or not holder.weights["weight"].shape:
        return {}
    module, shape = holder.module, holder.weights["weight"].shape
    return {"weight": ("", grouped_convolution(holder.word, shape, module.groups, module.transposed))}


def _recurrent(holder: Holder) -> Kinds:
    """The gates follow each other along the outputs. ``weight_hr`` projects the hidden state."""
    gates = next((gates for classes, gates in _GATES if isinstance(holder.module, classes)), ())
    return {
        key: (f".{key}", Kind(holder.word, OUT_IN, "recurrent", parts=() if key.startswith("weight_hr") else gates))
        for key in holder.weights
        if key.startswith("weight_")
    }


_FUSED = "transformers.models.gpt2.modeling_gpt2", "GPT2Attention"
_RULES: tuple[tuple[tuple[type, ...], Callable[[Holder], Kinds]], ...] = (
    ((nn.modules.conv._ConvNd,), _convolution),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
)
"""Classes whose axes depend on more than the name of the weight; all others are in ``CLASSES``."""


def foreign(module: str, name: str) -> type | None:
    """A class of another package, None if it is not imported or does not exist in this version."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def fused_parts(module: nn.Module) -> dict[int, tuple[str, ...]]:
    """For a module whose class fuses projections in one of its layers: identity of that layer → its parts in order."""
    cls = foreign(*_FUSED)
    if cls is None or not isinstance(module, cls) or not hasattr(module, "c_attn"):
        return {}
    _, *key_and_value = PROJECTIONS
    return {id(module.c_attn): tuple(key_and_value) if getattr(module, "is_cross_attention", False) else PROJECTIONS}
