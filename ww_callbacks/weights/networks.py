"""The networks in what a training run saved: state dicts of torch and trees of JAX, alone or beside other things.

Arrays are recognised by their ``shape``, so the same rules hold for torch, for files and for arrays in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ww_callbacks.weights.names import plain_name

_USUAL = frozenset({"state_dict", "model_state_dict", "model", "module", "net", "weights", "params"})
"""Keys of the weights in checkpoints; the names of its layers do not begin with it if there is no other network."""
_OPTIMIZER = re.compile(r"opt(im|imizer)?s?(_states?)?")
"""Entries of a tree that hold the state of an optimizer."""
_BESIDE = ("optim", "opt_state", "lr_sched", "scheduler", "loops", "callbacks", "rng", "hyper_parameters", "hparams")
"""Prefixes of entries of a checkpoint that are not weights."""
_MOMENTS = frozenset({"mu", "nu", "count"})
"""Entries of the state of Adam in optax."""
_VARIABLE = frozenset({"value"})
"""The only entry of a variable of ``flax.nnx``."""
MAX_ARRAYS = 1_000_000
"""Most arrays of a checkpoint. One that holds itself many times has any number of names."""
_DEPTH = 4
"""Levels of nested mappings that are searched in a checkpoint of torch, whose state dicts are flat."""


def networks_in(content: Any) -> dict[str, Any]:
    """The arrays of a state dict, or of all networks of a checkpoint; names of several begin with their keys.

    Args:
        content: what was saved, with flat state dicts.

    Raises:
        ValueError: too many arrays.

    Example:
        >>> import numpy as np
        >>> weight = np.ones((2, 2))
        >>> list(networks_in({"model": {"fc.weight": weight}, "optimizer": {"state": {}}}))
        ['fc.weight']
        >>> list(networks_in({"model": {"fc.weight": weight}, "critic": {"fc.weight": weight}}))
        ['model.fc.weight', 'critic.fc.weight']
    """
    return _networks_in(content, {})


def _networks_in(content: Any, known: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The arrays of a checkpoint; ``known`` has those of the mappings that were searched, by identity."""
    if not isinstance(content, Mapping):
        return _without_prefix(dict(_flat(content)))
    if id(content) not in known:
        known[id(content)] = _in_mapping(content, known)
    return known[id(content)]


def _in_mapping(content: Mapping[Any, Any], known: dict[int, dict[str, Any]]) -> dict[str, Any]:
    inside = {key: value for key, value in content.items() if not is_beside(key, value)}
    networks = {key: _networks_in(value, known) for key, value in inside.items() if _is_network(value, set())}
    if not networks.keys() & _USUAL and any(_holds_arrays(inside[key]) for key in inside.keys() - networks.keys()):
        networks = {}  # modules as nested mappings
    if len(networks) == 1 and set(networks) <= _USUAL:
        return next(iter(networks.values()))
    if networks and all(isinstance(key, str) for key in networks):
        if sum(map(len, networks.values())) > MAX_ARRAYS:
            raise ValueError(f"more than {MAX_ARRAYS} arrays")
        return {f"{key}.{name}": array for key, network in networks.items() for name, array in network.items()}
    return _without_prefix(dict(_flat(inside)))


def networks_in_tree(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The arrays of a tree of JAX, which nests modules as well as networks; names are joined by dots.

    The state of optimizers is left out wherever it is, because optax gives it the names of the weights.

    Args:
        tree: nested mappings, and lists of mappings, of arrays.

    Example:
        >>> import numpy as np
        >>> params = {"Dense_0": {"kernel": np.ones((2, 2))}}
        >>> list(networks_in_tree({"params": params, "opt_state": [{"mu": params}], "step": 3}))
        ['Dense_0.kernel']
        >>> list(networks_in_tree({"params": params, "ema_params": params}))
        ['params.Dense_0.kernel', 'ema_params.Dense_0.kernel']
    """
    return networks_in(_with_flat_networks(_weights_in(tree)))


def _weights_in(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The tree without optimizers and values other than arrays; lists as mappings, variables as their arrays."""
    if tree.keys() >= _MOMENTS:
        return {}
    inside = {str(key): _weights_of(value) for key, value in tree.items() if not _OPTIMIZER.fullmatch(str(key))}
    return {key: value for key, value in inside.items() if value is not None}


def _weights_of(value: Any) -> Any:
    if isinstance(value, Mapping):
        is_variable = value.keys() == _VARIABLE and not isinstance(value["value"], Mapping)
        return _weights_of(value["value"]) if is_variable else _weights_in(value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return _weights_in(dict(enumerate(value)))
    return value if _rank(value) else None


def _with_flat_networks(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree as torch would save it: each network a flat state dict."""
    if _is_state(tree) or any(isinstance(value, Mapping) and _is_state(value) for value in tree.values()):
        return {key: _with_flat_networks(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    return dict(_flat(tree, depth=None))


def _is_state(tree: Mapping[str, Any]) -> bool:
    """Whether a mapping holds networks: under the key of flax, or a state dict of torch under a usual key."""
    return isinstance(tree.get("params"), Mapping) or any(_is_state_dict(tree.get(key)) for key in _USUAL)


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and any("." in key and _is_matrix(inner) for key, inner in value.items())


def _is_network(value: Any, seen: set[int]) -> bool:
    """Whether an entry of a checkpoint is a state dict with matrices, or holds one under a usual key."""
    if not isinstance(value, Mapping) or id(value) in seen:
        return False
    seen.add(id(value))
    return any(map(_is_matrix, value.values())) or any(_is_network(value.get(key), seen) for key in _USUAL)


def _is_matrix(value: Any) -> bool:
    return _rank(value) >= 2


def _rank(value: Any) -> int:
    """Number of dimensions, 0 of what is no array."""
    shape: Any = getattr(value, "shape", None)
    return len(shape) if hasattr(shape, "__len__") else 0


def is_beside(key: Any, value: Any) -> bool:
    """Whether an entry of a checkpoint is no weight, by its key. That of a matrix has to name an optimizer.

    Example:
        >>> import numpy as np
        >>> is_beside("optimizer_states", []), is_beside("rng_mixer.weight", np.ones((2, 2)))
        (True, False)
    """
    if not isinstance(key, str) or not key.startswith(_BESIDE):
        return False
    return not _is_matrix(value) or _OPTIMIZER.fullmatch(key.partition(".")[0]) is not None


def _holds_arrays(value: Any) -> bool:
    return any(True for _ in _flat(value))


def _flat(
    value: Any, prefix: str = "", seen: set[int] | None = None, depth: int | None = _DEPTH
) -> Iterator[tuple[str, Any]]:
    """Arrays in nested mappings, each mapping once, without the numbered entries of optimizers."""
    seen = set() if seen is None else seen
    if hasattr(value, "shape"):
        yield prefix or "tensor", value
    elif isinstance(value, Mapping) and id(value) not in seen and (depth is None or prefix.count(".") < depth):
        seen.add(id(value))
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _flat(inner, f"{prefix}.{key}" if prefix else key, seen, depth)


def _without_prefix(arrays: dict[str, Any]) -> dict[str, Any]:
    """Remove the parts that wrappers add, and the prefix ``module.`` if all names have it."""
    plain = {plain_name(name): array for name, array in arrays.items()}
    if len(plain) < len(arrays):
        return arrays
    while plain and all(name.startswith("module.") for name in plain):
        plain = {name.removeprefix("module."): array for name, array in plain.items()}
    return plain
