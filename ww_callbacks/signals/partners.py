"""The ratio of each module's parameters: of layers, of modules that hold several layers, of normalisation layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial


def find_partners(names: Sequence[str], norms: Collection[str]) -> dict[str, str]:
    """The layer whose ratio each normalisation layer gets.

    Among the layers that share the longest prefix of their dotted name with it, this is the nearest layer before it, or
    the nearest one after it if there is none before. In a residual block this is the convolution of each batch
    normalisation; in a pre-norm transformer block, the first projection of the block. TempBalance (Zhou et al. 2023)
    pairs batch normalisations with the convolution before them.

    Args:
        names: names of the layers with a matrix and of the normalisation layers, in model order.
        norms: the names of the normalisation layers among them.

    Returns:
        Name of a normalisation layer → name of its partner; empty if there is no layer.

    Example:
        >>> find_partners(["0.conv", "0.norm", "1.norm", "1.fc", "head"], {"0.norm", "1.norm"})
        {'0.norm': '0.conv', '1.norm': '1.fc'}
    """
    layers = [(index, name) for index, name in enumerate(names) if name not in norms]
    if not layers:
        return {}
    return {
        name: min(layers, key=partial(_distance, (position, name)))[1]
        for position, name in enumerate(names)
        if name in norms
    }


def holder_of(name: str, modules: Collection[str]) -> str:
    """The module that holds a layer: the longest prefix of its dotted name that is a module, "" if there is none.

    Example:
        >>> holder_of("encoder.lstm.kernel.i", {"encoder", "encoder.lstm"})
        'encoder.lstm'
    """
    parts = name.split(".")
    candidates = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((candidate for candidate in candidates if candidate in modules), "")


def module_ratios(modules: Collection[str], ratios: Mapping[str, float]) -> dict[str, float]:
    """The ratio of each module: that of the layer of the same name, otherwise the mean over the layers in it.

    The layers in a module are the gates or projections of one parameter.

    Args:
        modules: names of the modules that hold parameters.
        ratios: ratio by layer name.

    Example:
        >>> module_ratios({"fc", "attention"}, {"fc": 0.5, "attention.q": 1.0, "attention.k": 1.5})
        {'fc': 0.5, 'attention': 1.25}
    """
    parts: dict[str, list[float]] = {}
    for name, ratio in ratios.items():
        parts.setdefault(holder_of(name, modules), []).append(ratio)
    return {module: ratios.get(module, sum(values) / len(values)) for module, values in parts.items() if module}


def _distance(norm: tuple[int, str], layer: tuple[int, str]) -> tuple[int, bool, int]:
    """The distance as a sort key; the smallest is the nearest."""
    return -_shared(norm[1], layer[1]), layer[0] > norm[0], abs(layer[0] - norm[0])


def _shared(first: str, second: str) -> int:
    """Number of leading path parts that two names share, without their last parts."""
    count = 0
    for one, other in zip(first.split(".")[:-1], second.split(".")[:-1], strict=False):
        if one != other:
            break
        count += 1
    return count
