"""The keys of metrics, the same for every logger, TensorBoard and the log dictionaries of the frameworks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TypeVar

from ww_callbacks.printable import shortened

PREFIX = "ww"
"""What all keys begin with, unless the argument ``prefix`` of a monitor says otherwise."""
AGGREGATES = f"{PREFIX}/"
"""Prefix of the metrics of the whole model, which frameworks receive too; layer metrics start with ``ww_layer/``."""
ALPHA = f"{AGGREGATES}alpha"
"""Key of the mean alpha, which progress bars show."""

LONGEST_TAG = 120
"""Maximal number of characters of a name in a key. MLflow, for one, allows 250 for the whole key."""

Value = TypeVar("Value")

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_.\-]")


def layer_key(metric: str, index: int, name: str) -> str:
    """The key of one layer's metric.

    Args:
        metric: such as "alpha".
        index: position of the layer in the report, from 0.
        name: of the layer.

    Example:
        >>> layer_key("alpha", 2, "encoder/block 1")
        'ww_layer/alpha/002.encoder.block_1'
    """
    return f"ww_layer/{metric}/{layer_tag(index, name)}"


def layer_tag(index: int, name: str) -> str:
    """The end of the keys of one layer, the same for all of its metrics.

    Args:
        index: position of the layer in the report, from 0.
        name: of the layer.

    Example:
        >>> layer_tag(2, "encoder/block 1")
        '002.encoder.block_1'
    """
    return f"{index:03d}.{tag_name(name)}"


def is_prefix(value: str) -> bool:
    """Whether a text can stand before the first slash of a key, in every logger.

    Example:
        >>> is_prefix("actor"), is_prefix("actor/")
        (True, False)
    """
    return bool(value) and _NOT_ALLOWED.search(value) is None


def with_prefix(values: Mapping[str, Value], prefix: str, *, now: str = PREFIX) -> Mapping[str, Value]:
    """The same values under keys with another prefix. A key that does not have the one of now stays as it is.

    Args:
        values: under the keys of metrics or panels.
        prefix: what the keys begin with.
        now: what they begin with now.

    Example:
        >>> with_prefix({"ww/alpha": 3.0, "ww_layer/alpha/000.fc": 3.5}, "actor")
        {'actor/alpha': 3.0, 'actor_layer/alpha/000.fc': 3.5}
    """
    if prefix == now:
        return values
    ours = (f"{now}/", f"{now}_layer/")
    return {f"{prefix}{key.removeprefix(now)}" if key.startswith(ours) else key: value for key, value in values.items()}


def aggregates(metrics: Mapping[str, float], prefix: str = PREFIX) -> dict[str, float]:
    """The metrics of the whole model, without those of single layers.

    Args:
        metrics: of the whole model and of layers.
        prefix: what their keys begin with.

    Example:
        >>> aggregates({"ww/alpha": 3.0, "ww_layer/alpha/000.fc": 3.0})
        {'ww/alpha': 3.0}
    """
    return {key: value for key, value in metrics.items() if key.startswith(f"{prefix}/")}


def logged(metrics: Mapping[str, float], names: Collection[str]) -> dict[str, float]:
    """The metrics that are logged: all but those of other layers.

    Args:
        metrics: of the whole model and of layers.
        names: layers with metrics of their own.

    Example:
        >>> logged({"ww/stop/traps": 0.2, "ww_layer/lr_ratio/002.fc": 1.5, "ww_layer/lr_ratio/003.head": 0.9}, ["fc"])
        {'ww/stop/traps': 0.2, 'ww_layer/lr_ratio/002.fc': 1.5}
    """
    tags = _tag_names(frozenset(names))
    return {
        key: value
        for key, value in metrics.items()
        if key.startswith(AGGREGATES) or key.rsplit("/", 1)[-1].partition(".")[2] in tags
    }


@lru_cache(maxsize=8)
def _tag_names(names: frozenset[str]) -> frozenset[str]:
    return frozenset(map(tag_name, names))


def tag_name(name: str) -> str:
    """The name of a layer in characters that every logger accepts, shortened; a slash would start a new group.

    Example:
        >>> tag_name("encoder/block 1")
        'encoder.block_1'
    """
    tag = _NOT_ALLOWED.sub("_", name.replace("/", "."))
    return tag if len(tag) <= LONGEST_TAG else shortened(tag, LONGEST_TAG, gap="..", mark="-")
