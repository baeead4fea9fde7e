"""Tensor classes of torchao, in memory and in files of ``torch.save``. Does not import torchao."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ww_callbacks.weights.tensor import PartOf

PACKAGE = "torchao."


class StandIn(Tensor):
    """Takes the place of a tensor class of torchao in a file: holds the parts as attributes and computes nothing."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Refuse every operation."""
        raise NotImplementedError(f"{cls.__name__} from a file computes nothing")


class Value:
    """Takes the place of any other class of torchao in a file."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def stand_ins(names: list[str]) -> list[tuple[type, str]]:
    """What takes the place of classes of torchao, for ``torch.serialization.safe_globals``.

    Args:
        names: of classes and functions; those of other packages are left out.

    Example:
        >>> [(cls.__name__, name) for cls, name in stand_ins(["torchao.quantization.Int8Tensor", "os.system"])]
        [('Int8Tensor', 'torchao.quantization.Int8Tensor')]
    """
    found: list[tuple[type, str]] = []
    for name in names:
        cls = name.rpartition(".")[2]
        if name.startswith(PACKAGE):
            bases = (StandIn,) if "Tensor" in cls and "Kwargs" not in cls else (Value,)
            found.append((type(cls, bases, {}), name))
    return found


def is_torchao(tensor: Tensor) -> bool:
    """Whether a tensor is of a class of torchao, or stands in for one."""
    return isinstance(tensor, StandIn) or type(tensor).__module__.startswith(PACKAGE)


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
