"""Sharded weights (DTensor of FSDP2 and tensor parallelism), gathered one matrix at a time.

Reading a sharded weight is a collective operation of all ranks. If one rank decides what is read, it leads: it
announces each weight before it reads it, and the other ranks follow.
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
    """The full weight. A sharded weight is gathered into a copy, and all its ranks have to call this.

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
    """Announce each read of a sharded weight inside the block.

    Args:
        model: the model that holds the weights.
        send: sends the index of the weight in ``model.parameters()`` to all other ranks.
    """
    numbers = {id(parameter): number for number, parameter in enumerate(model.parameters())}
    token = _tell.set(lambda tensor: send(numbers[id(tensor)]))
    try:
        yield
    finally:
        _tell.reset(token)


def follow(model: nn.Module, number: int) -> None:
    """Take part in a read of the leading rank; the result is discarded.

    Args:
        model: the same model as on the leading rank.
        number: the index that was sent.
    """
    whole(list(model.parameters())[number])


def reshard(model: nn.Module) -> None:
    """Make FSDP2 expose the sharded weights that the optimizer updates.

    After a validation, it exposes the gathered weights of the forward pass, which may have a lower precision.

    Args:
        model: may contain modules of ``fully_shard``.
    """
    for module in model.modules():
        if is_fully_sharded(module):
            module.reshard()  # type: ignore[operator]


def is_fully_sharded(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was applied to the module."""
    return any(cls.__name__ == "FSDPModule" for cls in type(module).__mro__)
