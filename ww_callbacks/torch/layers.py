"""The layer of each parameter, and the layer whose ratio a normalisation gets."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ww_callbacks.signals.partners import find_partners, holder_of, module_ratios
from ww_callbacks.weights.torch.names import unwrapped

Owners = dict[nn.Parameter, str]
"""Parameter → name of the module that holds it; a shared one belongs to the first."""


def owners_of(model: nn.Module) -> Owners:
    """The module of each parameter, including biases and the parts of parametrised weights."""
    owners: Owners = {}
    for name, module in unwrapped(model):
        for key, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(parameter, _owner(name) or key)
    return owners


def partners_of(model: nn.Module) -> dict[str, str]:
    """Normalisation layer → the layer whose rate it gets, see :func:`find_partners`.

    A module is a normalisation if the name of its class says so and it holds only vectors.
    """
    names, norms = [], set()
    for name, module in unwrapped(model):
        own = [parameter for parameter in module._parameters.values() if parameter is not None]
        if any(not _is_vector(parameter) for parameter in own):
            names.append(name)
        elif own and "norm" in type(module).__name__.lower():
            names.append(name)
            norms.add(name)
    return find_partners(names, norms)


def parameter_ratios(owners: Mapping[nn.Parameter, str], ratios: Mapping[str, float]) -> dict[Tensor, float]:
    """The ratio of each parameter. A module with several matrices (gates, projections) gets the mean of their ratios.

    Args:
        owners: of the parameters.
        ratios: by name of layer.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> found = parameter_ratios(owners_of(nn.Sequential(layer)), {"0": 1.5})
        >>> found[layer.weight], found[layer.bias]
        (1.5, 1.5)
    """
    by_module = module_ratios(set(owners.values()), ratios)
    return {parameter: by_module.get(owner, 1.0) for parameter, owner in owners.items()}


def holds(owners: Mapping[nn.Parameter, str], name: str) -> str:
    """The module that holds a layer; empty if there is none."""
    return holder_of(name, set(owners.values()))


def _is_vector(parameter: Tensor) -> bool:
    return not nn.parameter.is_lazy(parameter) and parameter.ndim <= 1


def _owner(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[: parts.index("parametrizations")]) if "parametrizations" in parts else name
