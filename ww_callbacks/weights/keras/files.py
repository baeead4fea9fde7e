"""Layers of Keras files. Classes come from the configuration in the file, otherwise from the names that Keras chose.

Layer names are those of the built model: the names of the parent layers and the layer itself, joined by dots.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ww_callbacks.weights.files import hdf5, zips
from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.keras import quantised
from ww_callbacks.weights.keras.rules import class_of, kind_of
from ww_callbacks.weights.kinds import Kind, layers_of_kind
from ww_callbacks.weights.layer import VECTOR, Layer
from ww_callbacks.weights.tensor import StoredTensor

MAX_CONFIG_BYTES = 64 * 2**20
_OPTIMIZER = ("optimizer", "optimizer_weights", "_loss", "_metrics", "metrics")
_NUMBER = re.compile(r"_\d+$")

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Owner:
    """A layer with variables: its name, its class, whether the file tells the class, and its configuration."""

    name: str
    cls: str
    is_known: bool
    config: Config


def layers_of_keras_file(path: Location) -> tuple[Layer, ...]:
    """The layers of a ``.keras``, ``.weights.h5``, ``.h5`` or ``.hdf5`` file.

    Args:
        path: of the file.

    Raises:
        WeightsFileError: not such a file, damaged, without weights, or with links to other files.
    """
    tree = hdf5.tree_of(path)
    configs = _configs(path, tree)
    owners: dict[_Place, dict[str, StoredTensor]] = {}
    for place, role, tensor in _placed(tree):
        if role in owners.get(place, {}):  # two scopes with the same name: keep both
            names = tuple(tensor.name.split("/")[:-1])
            place = _Place(names, names)
        owners.setdefault(place, {})[role] = tensor
    if not owners:
        raise WeightsFileError(path, f"holds no weights of Keras, only {list(tree.tensors or tree.names)[:10]}")
    order = {name: index for index, name in enumerate(configs)}
    found = sorted(owners.items(), key=lambda item: order.get(item[0].names[0], len(order)))
    return tuple(layer for place, group in found for layer in _layers(_owner(place, configs), group))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where variables are stored: names of the parent layers and the layer, and what the file calls each of them."""

    names: tuple[str, ...]
    words: tuple[str, ...]


def _placed(tree: hdf5.Tree) -> Iterator[tuple[_Place, str, StoredTensor]]:
    """Each variable with its layer and its role: its name, or its number among the variables."""
    for name, tensor in tree.tensors.items():
        parts = name.split("/")
        if parts[0] in _OPTIMIZER:
            continue
        if len(parts) > 1 and parts[-2] == "vars":
            yield _numbered_place(parts[:-2], tree.names), parts[-1], tensor
        elif (place := _named_place(parts)) is not None:
            yield place, parts[-1].split(":")[0], tensor


def _numbered_place(parts: list[str], given: Mapping[str, str]) -> _Place:
    """In files of Keras 3, groups are named by class or attribute, and ``vars`` holds the name of the layer."""
    steps = [(given.get("/".join([*parts[: i + 1], "vars"])), part) for i, part in enumerate(parts)]
    steps = [(name or part, part) for name, part in steps if name is not None] or [("model", "model")]
    return _Place(*zip(*steps, strict=True))


def _named_place(parts: list[str]) -> _Place | None:
    """In files of Keras 2, each layer has a group. Scopes below it repeat its name, except in nested models."""
    if parts[0] == "model_weights":
        parts = parts[1:]
    if len(parts) < 2:
        return None
    top, scopes = parts[0], parts[1:-1]
    repeated = next((i for i, scope in enumerate(scopes) if top in (scope, _plain(scope))), -1)
    names = (top, *scopes[repeated + 1 :])
    return _Place(names, names)


def _owner(place: _Place, configs: Mapping[str, Config]) -> _Owner:
    config = configs.get(place.names[-1])
    name = ".".join(place.names)
    if config is not None:
        return _Owner(name, config["class_name"], True, config["config"])
    found = (class_of(_plain(word)) for word in (place.words[-1], place.names[-1]))
    cls, config = next((known for known in found if known[0]), ("", {}))
    return _Owner(name, cls, False, config)


def _plain(word: str) -> str:
    """Without the number that Keras appends and without the underscore of private attributes."""
    return _NUMBER.sub("", word).removeprefix("_")


def _layers(owner: _Owner, group: Mapping[str, StoredTensor]) -> Iterator[Layer]:
    word = owner.cls or "layer"
    config = owner.config
    if quantised.is_quantised(owner.cls, group):
        columns = config.get("output_dim")
        length = columns if type(columns) is int and columns > 0 else None
        layout = quantised.Layout(owner.cls, _mode(config), str(config.get("equation")), length)
        group, equation = quantised.multiplied_out(quantised.named(owner.cls, group), layout)
        config = {**config, "equation": equation}
    large = {role: tensor for role, tensor in group.items() if len(tensor.shape) >= 2}
    if not large:
        kind = Kind(word, role="vector", skip=VECTOR, is_inferred=not owner.is_known)
        yield Layer(owner.name, kind.shown, skip=VECTOR, role="vector", is_inferred=kind.is_inferred)
    for role, tensor in large.items():
        suffix, kind = kind_of(owner.cls, role, word, large, config)
        if tensor.skip is not None:
            kind = replace(kind, skip=tensor.skip)
        yield from layers_of_kind(owner.name + suffix, replace(kind, is_inferred=not owner.is_known), tensor)


def _mode(config: Config) -> str | None:
    """The mode of quantisation that a configuration states: "int8" for the policy "int8_from_float32"."""
    policy = config.get("dtype")
    inner = policy.get("config") if isinstance(policy, dict) else None
    stated = inner.get("mode") if isinstance(inner, dict) else policy
    found = re.match("int[48](?=$|[/_])", stated) if isinstance(stated, str) else None
    return None if found is None else found[0]


def _configs(path: Location, tree: hdf5.Tree) -> dict[str, Config]:
    """Name of a layer → its entry in the configuration. Names that occur several times are left out."""
    text = tree.config
    if zips.is_zip(path):
        with zips.opened(path) as archive:
            text = zips.contents(path, archive, "config.json", MAX_CONFIG_BYTES).decode()
    if not text:
        return {}
    with reading(path, "its configuration cannot be read"):
        found = list(_entries(json.loads(text)))
    count = Counter(entry["config"]["name"] for entry in found)
    return {name: entry for entry in found if count[name := entry["config"]["name"]] == 1}


def _entries(value: Any) -> Iterator[Config]:
    if isinstance(value, list):
        for inner in value:
            yield from _entries(inner)
    elif isinstance(value, dict):
        config = value.get("config")
        if (
            isinstance(value.get("class_name"), str)
            and isinstance(config, dict)
            and isinstance(config.get("name"), str)
        ):
            yield value
        for inner in value.values():
            yield from _entries(inner)
