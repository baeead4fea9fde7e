"""Low-rank adapters as PEFT saves them: the factors in a weights file, their scale in ``adapter_config.json``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis import decoded, joined_factors
from ww_callbacks.report import Skip
from ww_callbacks.weights.files.directory import SINGLE, entries_of
from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.layer import ADAPTER, Adapter, Layer, adapter_layer
from ww_callbacks.weights.state_dict import layers_of_tensors
from ww_callbacks.weights.tensor import FLOATS, StoredTensor

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
VARIANTS = ("use_qalora", "use_bdlora", "kasa_config", "arrow_config")
"""Settings with which the change of a layer is not B·A."""
MAX_CONFIG_BYTES = 16 * 2**20
MAX_LENGTH, MAX_REPEATS, MAX_GROUPS, MAX_CHOICES = 200, 3, 3, 20
"""Limits of patterns and of the names to match: length, repetitions, groups, alternatives. Beyond them a match could
take very long."""

T = TypeVar("T")
_OTHERS = (".safetensors", ".index.json", *SINGLE)
_PREFIX = "base_model.model."
_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<part>A|B|magnitude_vector)(\.(?P<adapter>[^.]+?))??(\.weight)?"
)
_BIAS = re.compile(r".+\.lora_B(\.[^.]+)?\.bias")
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_TO_SAVE = re.compile(r"\.modules_to_save(\.[^.]+)?(?=\.)")


@dataclass(frozen=True, slots=True)
class Config:
    """The parts of PEFT's configuration that B·A depends on.

    Attributes:
        rank: r, if no pattern of ``ranks`` matches the module.
        alpha: lora_alpha, if no pattern of ``alphas`` matches.
        is_rank_stabilised: whether the scale is alpha/√r (rsLoRA) instead of alpha/r.
        is_transposed: whether the layers store their weights as (inputs, outputs).
        uses_dora: whether the rows of the sum have learned norms.
        ranks: pattern of module names → r.
        alphas: pattern of module names → lora_alpha.
    """

    rank: int
    alpha: float
    is_rank_stabilised: bool = False
    is_transposed: bool = False
    uses_dora: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """The rank of the adapter of a module.

        Example:
            >>> Config(8, 16.0, ranks={"q_proj": 4}).rank_of("layers.0.q_proj")
            4
        """
        return _matched(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """The factor on B·A of a module.

        Example:
            >>> Config(4, 16.0).scale_of("fc"), Config(4, 16.0, is_rank_stabilised=True).scale_of("fc")
            (4.0, 8.0)
        """
        rank = self.rank_of(module)
        return _matched(self.alphas, module, self.alpha) / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def adapters_in(path: Location) -> dict[str, Location]:
    """The adapters that a path holds: prefix of the names of their layers → weights file; empty if it holds none.

    PEFT saves the adapter "default" in the folder itself, and every other one in a folder of its name. Checkpoints of a
    trainer beside the adapter are left out.

    Args:
        path: of a folder or a weights file.

    Raises:
        WeightsFileError: a folder with a configuration, but without weights.
    """
    if not path.is_dir():
        return {"": path} if path.name in FILES else {}
    with reading(path):
        entries = entries_of(path)
    own = _weights_of(path)
    found = {} if own is None else {"": own}
    if own is None and any(entry.is_file() and entry.name.lower().endswith(_OTHERS) for entry in entries):
        return {}
    for entry in entries:
        is_adapter = entry.is_dir() and (entry / CONFIG).is_file()
        file = _weights_of(entry) if is_adapter and not (own and _CHECKPOINT.fullmatch(entry.name)) else None
        if file is not None:
            found[f"{entry.name}/"] = file
    if not found and (path / CONFIG).is_file():
        raise WeightsFileError(path, f"holds {CONFIG}, but none of {', '.join(FILES)}")
    return found


def layers_of_adapter(prefix: str, path: Location, tensors: Sequence[StoredTensor]) -> list[Layer]:
    """The layers of an adapter: one of low rank per adapted module, and those that were trained as a whole.

    Args:
        prefix: of the names of the layers.
        path: of the weights file; the configuration is beside it.
        tensors: of this file.
    """
    config = read_config(path.parent / CONFIG)
    factors: dict[tuple[str, str], dict[str, StoredTensor]] = {}
    others = []
    for tensor in tensors:
        name = tensor.name.removeprefix(_PREFIX)
        if _BIAS.fullmatch(name):
            continue
        found = _FACTOR.fullmatch(name)
        if found:
            key = found["module"].replace(".base_layer", ""), found["adapter"] or ""
            factors.setdefault(key, {})[(found["embedding"] or "") + found["part"]] = tensor
        else:
            others.append(replace(tensor, name=_TO_SAVE.sub("", name)))
    several = len({adapter for _, adapter in factors}) > 1
    layers = [
        _layer(f"{prefix}{adapter}/{module}" if several and adapter else prefix + module, module, parts, config)
        for (module, adapter), parts in factors.items()
    ]
    rest = layers_of_tensors(others)
    if isinstance(config, Skip) and not factors:  # of another method, so nothing says what the tensors are
        rest = tuple(layer.without_weights(config) if layer.spec is not None else layer for layer in rest)
    return layers + [layer.named(prefix + layer.name) for layer in rest]


def read_config(path: Location) -> Config | Skip:
    """The configuration of an adapter, or why it cannot be used.

    It is read as data. Values of the wrong type and patterns that could take very long to match are refused.
    """
    try:
        with reading(path):
            if path.exists() and not path.is_file():
                raise ValueError("not a file")
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise ValueError(f"more than {MAX_CONFIG_BYTES} bytes")
            return _config(json.loads(path.read_text(encoding="utf-8")))
    except WeightsFileError as error:
        return Skip("adapter", f"its scale is unknown, {path.name}: {error.cause}")


def _config(values: Any) -> Config:
    if not isinstance(values, dict):
        raise ValueError(f"not an object but {type(values).__name__}")
    kind = values.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"peft_type {str(kind)[:40]!r} is not supported, only 'LORA'")
    for name in VARIANTS:
        if values.get(name):
            raise ValueError(f"{name} is not supported")
    return Config(
        _count(values.get("r"), "r"),
        _number(values.get("lora_alpha"), "lora_alpha"),
        _flag(values, "use_rslora"),
        _flag(values, "fan_in_fan_out"),
        _flag(values, "use_dora"),
        {key: _count(value, f"rank_pattern[{key!r}]") for key, value in _patterns(values, "rank_pattern").items()},
        {key: _number(value, f"alpha_pattern[{key!r}]") for key, value in _patterns(values, "alpha_pattern").items()},
    )


def _count(value: Any, name: str) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"{name}: expected a positive integer, got {str(value)[:40]!r}")
    return value


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise ValueError(f"{name}: expected a finite number, got {str(value)[:40]!r}")
    return float(value)


def _flag(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name) or False
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {str(value)[:40]!r}")
    return value


def _patterns(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    patterns = values.get(name) or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"{name}: expected an object, got {str(patterns)[:40]!r}")
    for pattern in patterns:
        if len(pattern) > MAX_LENGTH or not _is_quick(pattern):
            raise ValueError(f"{name}: {pattern[:80]!r} is no pattern or could take very long to match")
    return patterns


def _is_quick(pattern: str) -> bool:
    """Whether matching takes a time that is a small power of the length of a name: few repetitions, not of a group."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    counts = len(re.findall(r"(?<![\\(])[*+?{]", pattern)), pattern.count("("), pattern.count("|")
    is_small = all(count <= most for count, most in zip(counts, (MAX_REPEATS, MAX_GROUPS, MAX_CHOICES), strict=True))
    return is_small and not re.search(r"\)[*+{]|\(\?[^:]|\\\d", pattern)


def _matched(patterns: Mapping[str, T], module: str, default: T) -> T:
    """The value of the first pattern that matches the end of a module's name, as PEFT matches it."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _weights_of(folder: Location) -> Location | None:
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def _layer(name: str, module: str, parts: Mapping[str, StoredTensor], config: Config | Skip) -> Layer:
    if isinstance(config, Skip):
        return Layer.skipped(name, ADAPTER, config, "adapter")
    if (config.ranks or config.alphas) and len(module) > MAX_LENGTH:
        return Layer.skipped(name, ADAPTER, Skip("adapter", "its name is too long to match patterns"), "adapter")
    kind = "embedding_" if any(part.startswith("embedding_") for part in parts) else ""
    down, up = parts.get(f"{kind}A"), parts.get(f"{kind}B")
    if down is None or up is None:
        there, missing = ("B", "A") if down is None else ("A", "B")
        return Layer.skipped(name, ADAPTER, Skip("adapter", f"lora_{there} without lora_{missing}"), "adapter")
    skip = _unfit(down, up, config.rank_of(module))
    if skip is not None:
        return Layer.skipped(name, ADAPTER, skip, "adapter")
    dtype = "float64" if "float64" in (down.dtype, up.dtype) else "float32"
    read = partial(_read, down, up, config.scale_of(module), dtype)
    magnitude = parts.get("magnitude_vector")
    if config.uses_dora and magnitude is None:
        return Layer.skipped(name, ADAPTER, Skip("adapter", "DoRA without its magnitudes"), "adapter")
    change = Adapter(
        module,
        config.is_transposed or bool(kind),
        None if magnitude is None else partial(_numbers, magnitude),
    )
    sides = up.shape[0], math.prod(down.shape[1:])
    return adapter_layer(name, down.shape[0], sides, dtype, read, change)


def _unfit(down: StoredTensor, up: StoredTensor, rank: int) -> Skip | None:
    """Why two tensors are not the factors of a product of this rank."""
    for tensor in (down, up):
        if tensor.skip is not None or tensor.dtype not in FLOATS:
            return tensor.skip or Skip("unsupported_dtype", tensor.dtype)
    shapes = f"A of shape {down.shape} and B of shape {up.shape}"
    is_matrix = min(len(down.shape), len(up.shape)) >= 2 and 0 not in (*down.shape, *up.shape)
    if not is_matrix or math.prod(up.shape[2:]) != 1 or down.shape[0] != up.shape[1]:
        return Skip("adapter", f"{shapes} do not fit")
    return (
        None
        if down.shape[0] == rank
        else Skip("adapter", f"{shapes} have rank {down.shape[0]}, not {rank} as {CONFIG} says")
    )


def _read(down: StoredTensor, up: StoredTensor, scale: float, dtype: str) -> NDArray[Any]:
    B, A = (_numbers(tensor).reshape(tensor.shape[0], -1).astype(dtype) for tensor in (up, down))
    with np.errstate(over="ignore", under="ignore"):
        return joined_factors(B * np.asarray(scale, dtype), A)


def _numbers(tensor: StoredTensor) -> NDArray[Any]:
    assert tensor.read is not None
    return decoded(tensor.read(), tensor.dtype)
