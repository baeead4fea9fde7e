"""What the axes of a weight count, by the node that uses it. The operators: https://onnx.ai/onnx/operators/."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from ww_callbacks.report import Skip
from ww_callbacks.weights.kinds import IN_OUT, OUT_IN, Kind, bias, embedding, grouped_convolution, norm
from ww_callbacks.weights.onnx.graph import Node

GATES = {"LSTM": ("i", "o", "f", "g"), "GRU": ("z", "r", "n"), "RNN": ()}
"""The gates of recurrent layers in ONNX's order, with torch's letters: its g is ONNX's c, its n is ONNX's h."""
_RECURRENT_INPUTS = {1: "W", 2: "R", 3: "B", 7: "P"}
"""Inputs of a recurrent node that are weights: for the input, for the hidden state, biases, peepholes."""
QUANTISING = ("QuantizeLinear", "DequantizeLinear")
"""Nodes whose further inputs are scales and zero points."""
_DIRECTIONS = ("forward", "reverse")

Shape = tuple[int, ...]


def kind_of(node: Node, index: int, shape: Shape) -> Kind | None:
    """How a weight with two or more dimensions is interpreted; None if no rule knows this use.

    Args:
        node: that uses it.
        index: of the input.
        shape: of the weight.

    Example:
        >>> kind_of(Node("Gemm", "", ("x", "w"), ("y",), {"transB": 1}), 1, (10, 64)).axes
        Axes(pooled=(), outputs=(0,), inputs=(1,))
        >>> kind_of(Node("MatMul", "", ("x", "w"), ("y",), {}), 1, (64, 10)).axes
        Axes(pooled=(), outputs=(1,), inputs=(0,))
    """
    if is_norm(node):
        return norm(node.op)
    rule = _RULES.get(node.op)
    return None if rule is None else rule(node, index, shape)


def is_norm(node: Node) -> bool:
    """Whether a node normalises."""
    return node.op.endswith("Normalization")


def input_name(node: Node, index: int) -> str:
    """What tells the weights of one node apart: ".W" and ".R" of a recurrent one, "" for others."""
    return f".{_RECURRENT_INPUTS.get(index, index)}" if node.op in GATES else ""


def _product(node: Node, index: int, shape: Shape) -> Kind | None:
    """A second factor has its inputs first, a first factor its outputs. Gemm may transpose both."""
    if index == 2:
        return bias(node.op)
    if len(shape) != 2:
        return None
    if node.attributes.get("alpha", 1.0) != 1.0:
        return Kind(node.op, skip=Skip("computed", f"{node.op} multiplies it by {node.attributes['alpha']}"))
    is_transposed = bool(node.number("transB" if index else "transA", 0))
    return Kind(node.op, IN_OUT if is_transposed != bool(index) else OUT_IN)


def _convolution(node: Node, index: int, shape: Shape) -> Kind | None:
    """(outputs, inputs per group, positions…); transposed (inputs, outputs per group, positions…), as in torch."""
    if index != 1:
        return None
    groups = node.number("group", 1)
    if len(shape) < 3 or groups < 1 or shape[0] % groups:
        return Kind(node.op, role="convolution", skip=Skip("bad_shape", f"{shape} in {groups} groups"))
    return grouped_convolution(node.op, shape, groups, node.op == "ConvTranspose")


def _recurrent(node: Node, index: int, shape: Shape) -> Kind | None:
    """(directions, gates · hidden size, inputs): one matrix per direction and gate."""
    if index not in (1, 2):
        return bias(node.op) if index in _RECURRENT_INPUTS else None
    gates, count = GATES[node.op], 2 if node.attributes.get("direction") == "bidirectional" else 1
    hidden = node.number("hidden_size", -1)
    if len(shape) != 3 or shape[:2] != (count, max(len(gates), 1) * hidden):
        skip = Skip("bad_shape", f"{shape} with {count} directions and a hidden size of {hidden}")
        return Kind(node.op, role="recurrent", skip=skip)
    parts = gates if count == 1 else tuple(_joined(*pair) for pair in product(_DIRECTIONS, gates or ("",)))
    return Kind(node.op, OUT_IN, "recurrent", parts=parts, shape=(shape[0] * shape[1], shape[2]))


def _joined(direction: str, gate: str) -> str:
    return f"{direction}.{gate}" if gate else direction


def _gather(node: Node, index: int, shape: Shape) -> Kind | None:
    if index != 0 or len(shape) != 2 or node.number("axis", 0) not in (0, -2):
        return None
    return embedding(node.op, shape)


def _scale(node: Node, index: int, shape: Shape) -> Kind | None:
    return None if index == 0 else Kind(node.op, role="other", skip=Skip("no_matrix", "scales of a quantised weight"))


_RULES: dict[str, Callable[[Node, int, Shape], Kind | None]] = {
    "Gemm": _product,
    "MatMul": _product,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Gather": _gather,
    **dict.fromkeys(QUANTISING, _scale),
}
