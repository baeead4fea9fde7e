"""The modules of a model inside its wrappers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ww_callbacks.weights.names import plain_name


def unwrapped(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of each module inside the wrappers, in the order of ``named_modules``."""
    while (inner := _inside(model)) is not None:
        model = inner
    for name, module in model.named_modules():
        if not hasattr(module, "_orig_mod"):
            yield plain_name(name), module


def _inside(model: nn.Module) -> nn.Module | None:
    """The model inside a wrapper (data parallel, compiled, Lightning Fabric); None for other modules."""
    parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    inner = model.module if parallel else getattr(model, "_orig_mod", getattr(model, "_forward_module", None))
    return inner if isinstance(inner, nn.Module) else None
