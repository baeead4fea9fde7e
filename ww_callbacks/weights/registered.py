"""Registered layer classes: which matrices they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ww_callbacks.report import Skip
from ww_callbacks.weights.kinds import OUT_IN, Kind, convolution, layers_of_kind, named_role
from ww_callbacks.weights.layer import VECTOR, Layer
from ww_callbacks.weights.rule import Rule, axes_of
from ww_callbacks.weights.tensor import Stored, StoredTensor

Extract = Callable[[Any], Any]

_registered: dict[type, Extract | Mapping[str, Rule]] = {}


def register_layer(cls: type, rule: Extract | Mapping[str, str] | None) -> None:
    """Register which matrices the layers of a class hold.

    Applies to the class and its subclasses, and takes precedence over the built-in rules. Layers inside such a layer
    are still found.

    Args:
        cls: class of a torch module or a Keras layer.
        rule: a mapping from parameters to what their axes count, in words: "out" (outputs), "in" (inputs), "position"
            (of a convolution kernel), "expert" (separate matrices). The layers are named after the parameter, each
            expert is a separate layer "<layer>.<number>.<parameter>".
            Or a function that gets the layer and returns its weight, or a mapping suffix → weight for several. A
            weight is a tensor or array: a matrix (outputs, inputs), or a kernel of four or five dimensions (outputs,
            inputs, positions…). The function is called at each snapshot and must change nothing.
            None removes a registration.

    Raises:
        TypeError: ``cls`` is not a class, or ``rule`` is neither a mapping of strings nor a function.
        ValueError: words that are no rule.

    Example:
        >>> import torch
        >>> import ww_callbacks as ww
        >>> class Experts(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stack = torch.nn.Parameter(torch.randn(2, 60, 80))
        >>> ww.register_layer(Experts, {"stack": "expert in out"})
        >>> [(layer.name, layer.N, layer.M) for layer in ww.analyze(torch.nn.Sequential(Experts()))]
        [('0.0.stack', 80, 60), ('0.1.stack', 80, 60)]
        >>> ww.register_layer(Experts, lambda layer: {str(i): w.T for i, w in enumerate(layer.stack)})
        >>> [(layer.name, layer.N, layer.M) for layer in ww.analyze(torch.nn.Sequential(Experts()))]
        [('0.0', 80, 60), ('0.1', 80, 60)]
        >>> ww.register_layer(Experts, None)
    """
    if not isinstance(cls, type):
        raise TypeError(f"cls: expected a class, got {cls!r}")
    if rule is None:
        _registered.pop(cls, None)
    elif isinstance(rule, Mapping):
        _registered[cls] = {parameter: _in_words(parameter, words) for parameter, words in rule.items()}
    elif callable(rule):
        _registered[cls] = rule
    else:
        raise TypeError(f"rule: expected a function of a layer or a mapping parameter -> words, got {rule!r}")


def _in_words(parameter: object, words: object) -> Rule:
    if not isinstance(parameter, str) or not isinstance(words, str):
        raise TypeError(f"rule: expected parameter names and words, got {parameter!r}: {words!r}")
    axes_of(words)
    return Rule(words)


def registrations() -> tuple[tuple[type, Extract | Mapping[str, Rule]], ...]:
    """All that is registered now."""
    return tuple(_registered.items())


def registered_for(layer: object) -> Extract | Mapping[str, Rule] | None:
    """What was registered for the class of a layer, or for its nearest base class."""
    return next((_registered[cls] for cls in type(layer).__mro__ if cls in _registered), None)


def missing(rules: Iterable[str], weights: Iterable[str]) -> list[Skip]:
    """Why nothing is found for some registered parameters: the layer does not have them.

    Args:
        rules: the registered parameters.
        weights: the parameters of the layer.
    """
    absent = [parameter for parameter in rules if parameter not in weights]
    return [Skip("bad_registration", f"no parameter {parameter!r}") for parameter in absent]


def extracted(extract: Extract, layer: object) -> dict[str, Any]:
    """Suffix → weight.

    Raises:
        TypeError: a suffix is not a string.
    """
    result = extract(layer)
    weights = dict(result) if isinstance(result, Mapping) else {"": result}
    for suffix in weights:
        if not isinstance(suffix, str):
            raise TypeError(f"expected suffixes that are strings, got {suffix!r}")
    return weights


def registered_kind(word: str, shape: tuple[int, ...]) -> Kind:
    """How a weight from a registered function is interpreted, by its number of dimensions.

    Three may be those of a kernel or of stacked matrices, so they are refused.
    """
    if len(shape) < 2:
        return Kind(word, role="vector", skip=VECTOR)
    if len(shape) == 2:
        return Kind(word, OUT_IN, named_role(word, "matrix"))
    if len(shape) == 3:
        advice = "register words such as 'expert out in' or 'out in position', or return its matrices one by one"
        return Kind(word, role="other", skip=Skip("no_rule", f"three dimensions without axes; {advice}"))
    return convolution(word, shape, channels_last=False)


def array_layers(name: str, word: str, layer: object, extract: Extract, to_array: Callable[[Any], Any]) -> list[Layer]:
    """The layers of a registered function, with weights that can become arrays.

    Args:
        name: of the layer.
        word: its class.
        layer: the layer.
        extract: the registered function.
        to_array: a weight → an array.
    """
    try:
        weights = {suffix: np.asarray(to_array(value)) for suffix, value in extracted(extract, layer).items()}
    except Exception as error:
        return [Layer.skipped(name, word, failure(error))]
    layers: list[Layer] = []
    for suffix, array in weights.items():
        full = f"{name}.{suffix}" if suffix else name
        tensor = StoredTensor(full, array.shape, array.dtype.name, partial(_read, extract, layer, suffix, to_array))
        layers += layers_of_kind(full, registered_kind(word, array.shape), tensor)
    return layers


def failure(error: Exception) -> Skip:
    """Why a layer is skipped if its registration fails."""
    return Skip("bad_registration", f"{type(error).__name__}: {error}")


def _read(extract: Extract, layer: object, suffix: str, to_array: Callable[[Any], Any]) -> Stored:
    array: Stored = np.asarray(to_array(extracted(extract, layer)[suffix]))
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array
