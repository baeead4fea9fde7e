"""Weights of which each rank holds a part (DTensor: FSDP2, tensor parallelism): one whole matrix at a time.

Whoever reads such a weight takes part in a message of all ranks. Where one rank alone decides what is read, it leads:
it tells the others of each weight before it reads it, and they follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

_tell: ContextVar[Callable[[torch.Tensor], object] | None] = ContextVar("tell", default=None)


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a weight; of a sharded one a copy, for which all its ranks have to call this.

    Example:
        >>> whole(torch.ones(2, 2)).sum()
        tensor(4.)
    """
    if not is_sharded(tensor):
        return tensor
    tell = _tell.get()
    if tell is not None:
        tell(tensor)
    with torch.no_grad():
        gathered: torch.Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return gathered


@contextmanager
def leading(model: nn.Module, send: Callable[[int], object]) -> Iterator[None]:
    """Inside, each read of a sharded weight is told first.

    Args:
        model: whose weights are read.
        send: gets the number of the weight among ``model.parameters()`` to all other ranks.
    """
    numbers = {id(parameter): number for number, parameter in enumerate(model.parameters())}
    token = _tell.set(lambda tensor: send(numbers[id(tensor)]))
    try:
        yield
    finally:
        _tell.reset(token)


def follow(model: nn.Module, number: int) -> None:
    """Take part in the read of a weight by the rank that leads; nothing is kept.

    Args:
        model: the same as there.
        number: what was sent.
    """
    whole(list(model.parameters())[number])


def reshard(model: nn.Module) -> None:
    """Let FSDP2 show the weights that the optimizer updates.

    After a validation it shows the gathered ones of the forward pass, which may have a lower precision.

    Args:
        model: may hold modules of ``fully_shard``.
    """
    for module in model.modules():
        if is_fully_sharded(module):
            module.reshard()  # type: ignore[operator]


def is_fully_sharded(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was applied to the module."""
    return any(cls.__name__ == "FSDPModule" for cls in type(module).__mro__)
