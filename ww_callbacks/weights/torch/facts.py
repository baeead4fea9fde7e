"""What the layers of a module depend on, so that they are searched for again only after a change."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ww_callbacks.weights.registered import registered_for, registrations
from ww_callbacks.weights.torch.lora import base_of
from ww_callbacks.weights.torch.quantised import has_codes, packed

_ORDINARY = (nn.Parameter, Tensor)


def is_plain(model: nn.Module) -> bool:
    """Whether the layers of a model depend on :func:`facts_of` only.

    Low-rank adapters, parametrisations, packed weights, registered functions and parameters of other classes have a
    state of their own.

    Example:
        >>> is_plain(nn.Sequential(nn.Linear(3, 2))), is_plain(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
        (True, False)
    """
    return not any(
        parametrize.is_parametrized(module)
        or base_of(module) is not None
        or packed("", module) is not None
        or has_codes(module)
        or callable(registered_for(module))
        or not all(tensor is None or type(tensor) in _ORDINARY for tensor in module._parameters.values())
        for module in model.modules()
    )


def facts_of(model: nn.Module) -> tuple[list[object], list[object]]:
    """The registered classes, the modules of a model with their hooks and parameters, and the form of the matrices.

    Args:
        model: any module.

    Returns:
        Plain facts, equal as long as nothing has changed, and the objects whose identity is among them. Keep these
        objects as long as the facts, because the identity of a deleted object may be used again.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2))
        >>> before = facts_of(model)
        >>> model[0].weight = nn.Parameter(model[0].weight.clone())
        >>> facts_of(model)[0] == before[0]
        False
    """
    facts: list[object] = [registrations()]
    objects: list[object] = []
    waiting: list[nn.Module] = [model]
    seen: set[int] = set()
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        objects.append(module)
        hooks = module._forward_pre_hooks.values()  # old weight norm and pruning compute weights in them
        objects += hooks
        facts += (id(module), type(module), *map(id, hooks))
        for name, child in module._modules.items():
            facts.append(name)
            if child is not None:
                waiting.append(child)
        for name, tensor in module._parameters.items():
            facts += (name, id(tensor))
            if tensor is not None:
                objects.append(tensor)
                facts.append(type(tensor))
                if type(tensor) in _ORDINARY and tensor.ndim >= 2 and tensor.layout == torch.strided:
                    facts += (tensor.dtype, tensor.device, tensor.shape, tensor.stride(), tensor.data_ptr())
    return facts, objects
