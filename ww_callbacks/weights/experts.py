"""Stacked experts of a mixture of experts: one tensor of three dimensions, one matrix per expert."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ww_callbacks.analysis import Axes, LayerSpec
from ww_callbacks.weights.layer import Layer
from ww_callbacks.weights.split import divided
from ww_callbacks.weights.tensor import StoredTensor

Shapes = Mapping[str, tuple[int, ...]]

_NAME = re.compile(r"(^|[._])(\w*experts?|exps|switch_mlp)([._]|$)", re.IGNORECASE)
_FUSED = re.compile(r"(^|_)(gate_up|w13|up_gate)(_|$)")
_DOWN = re.compile(r"(^|_)(down|w2|output|out)(_|$)")
_OUT_IN, _IN_OUT = Axes((0,), (1,), (2,)), Axes((0,), (2,), (1,))


def are_experts(module: str, parameter: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a stack of experts: three dimensions, and a name that says so.

    Example:
        >>> are_experts("mlp.experts", "gate_up_proj", (8, 64, 32)), are_experts("conv", "weight", (8, 64, 3))
        (True, False)
    """
    return len(shape) == 3 and any(_NAME.search(name) for name in (module, parameter))


def layers_of_experts(module: str, parameter: str, kind: str, tensor: StoredTensor, shapes: Shapes) -> list[Layer]:
    """One layer per expert and matrix, such as ``experts.7.down_proj``.

    A fused ``gate_up_proj`` is divided into ``gate_proj`` and ``up_proj`` if the shapes tell which of its axes are the
    outputs, and if it has no biases: models with biases (gpt-oss) store the two interleaved.

    Args:
        module: name of the module.
        parameter: name of the tensor within the module.
        kind: that the report shows.
        tensor: the stack, shape (experts, …, …), of numbers that can be read.
        shapes: of all tensors of the module.
    """
    axes = axes_of_experts(parameter, shapes)
    name = f"{module}.{parameter}" if module else parameter
    assert tensor.read is not None
    spec = LayerSpec(name, kind, tensor.shape, tensor.dtype, axes or _OUT_IN, "matrix")
    whole = Layer(name, kind, spec, tensor.read, send=getattr(tensor.read, "send", None), role="matrix")
    short = "" if parameter == "weight" else f".{parameter}"
    each = divided(whole, dict.fromkeys(map(str, range(tensor.shape[0])), 1), axis=0)
    experts = [layer.named(f"{module}.{number}{short}".lstrip(".")) for number, layer in enumerate(each)]
    if axes is None or not (parts := _parts(parameter, shapes)):
        return experts
    half = tensor.shape[axes.outputs[0]] // 2
    return [
        part.named(f"{module}.{number}.{suffix}".lstrip("."))
        for number, layer in enumerate(experts)
        for part, suffix in zip(divided(layer, dict.fromkeys(parts, half)), parts, strict=True)
    ]


def axes_of_experts(parameter: str, shapes: Shapes) -> Axes | None:
    """Which axes are outputs and inputs, from a fused projection and the one that follows it; None if unknown.

    With h features and i hidden units, the pair is (2i, h) and (h, i), or transposed (h, 2i) and (i, h).

    Args:
        parameter: name of the stack.
        shapes: of all tensors of the module.

    Example:
        >>> axes_of_experts("gate_up_proj", {"gate_up_proj": (8, 64, 96), "down_proj": (8, 48, 64)})
        Axes(pooled=(0,), outputs=(2,), inputs=(1,))
    """
    stacks = {name: shape for name, shape in shapes.items() if len(shape) == 3}
    fused = [shape for name, shape in stacks.items() if _FUSED.search(name)]
    down = [shape for name, shape in stacks.items() if _DOWN.search(name)]
    if len(fused) != 1 or len(down) != 1 or not (_FUSED.search(parameter) or _DOWN.search(parameter)):
        return None
    (_, a, b), (_, c, d) = fused[0], down[0]
    is_out_in, is_in_out = (a, b) == (2 * d, c), (a, b) == (d, 2 * c)
    if is_out_in == is_in_out:
        return None
    return _OUT_IN if is_out_in else _IN_OUT


def _parts(parameter: str, shapes: Shapes) -> Sequence[str]:
    """The two matrices of a fused projection; none if it is not one, or may be interleaved."""
    if not _FUSED.search(parameter) or any("bias" in name for name in shapes):
        return ()
    return ("gate_proj", "up_proj") if "gate_up" in parameter else ()
