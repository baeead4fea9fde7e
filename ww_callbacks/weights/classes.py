"""What the layer classes of torch and its neighbours hold, as tables. Imports no framework.

Used for modules in memory, by their class, and for state dicts, which tell names of parameters but no classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from ww_callbacks.report import Skip
from ww_callbacks.weights.kinds import NORM
from ww_callbacks.weights.rule import Rule

GATES = {"LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n")}
"""The gates of recurrent layers, in the order in which a weight holds them along its outputs."""

PROJECTIONS = ("q", "k", "v")
"""Queries, keys and values, in the order in which a fused projection holds them along its outputs."""

_NORM = {"weight": Rule(skip=NORM, role="norm")}

CLASSES: Mapping[str, Mapping[str, Rule]] = {
    "torch.nn.Linear": {"weight": Rule("out in")},
    "torch.nn.MultiheadAttention": {
        "in_proj_weight": Rule("out in", parts=PROJECTIONS, suffix=""),
        **{f"{part}_proj_weight": Rule("out in", suffix=f".{part}") for part in PROJECTIONS},
    },
    "torch.nn.Bilinear": {"weight": Rule(skip=Skip("no_matrix", "a bilinear form per output"))},
    "torch.nn.LayerNorm": _NORM,
    "torch.nn.RMSNorm": _NORM,
    "torch.nn.GroupNorm": _NORM,
    "torch.nn.LocalResponseNorm": _NORM,
    "transformers.pytorch_utils.Conv1D": {"weight": Rule("in out")},
}
"""Class → parameter → rule. Subclasses follow the rules of their base class."""

PARAMETERS: Mapping[str, Rule] = {
    parameter: rule for rules in CLASSES.values() for parameter, rule in rules.items() if parameter != "weight"
}
"""Parameters whose name alone tells the rule."""
