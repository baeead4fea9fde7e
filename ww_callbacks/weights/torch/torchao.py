"""Tensor classes of torchao in memory. Does not import torchao."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ww_callbacks.weights.tensor import PartOf

PACKAGE = "torchao."


def is_torchao(tensor: Tensor) -> bool:
    """Whether a tensor is of a class of torchao."""
    return type(tensor).__module__.startswith(PACKAGE)


def parts_of(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor, PartOf]]:
    """The tensors inside a tensor of torchao, under the names that its safetensors files use.

    Args:
        name: of the tensor.
        tensor: see :func:`is_torchao`.
    """
    module, dot, weight = name.rpartition(".")
    stated = getattr(tensor, "block_size", None)
    facts = {"block_size": list(stated)} if isinstance(stated, (list, tuple)) else {}
    for part, inner in _inside(tensor):
        yield f"{module}{dot}_{weight}_{part}", inner, PartOf(weight, part, type(tensor).__name__, facts)


def _inside(tensor: Tensor, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Attributes that are tensors. Older classes have them one inside the other."""
    for attribute, value in vars(tensor).items():
        if not isinstance(value, Tensor):
            continue
        if is_torchao(value) and depth < 3:
            yield from ((f"{attribute}_{part}", inner) for part, inner in _inside(value, depth + 1))
        else:
            yield attribute, value
