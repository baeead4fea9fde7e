"""The arguments that Monitor and the callbacks of every framework share, checked at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import Any, Literal

from ww_callbacks.analysis import ConvScale, Fit, Interval, Settings
from ww_callbacks.checks import (
    check_callable,
    check_choice,
    check_count,
    check_executor,
    check_patterns,
    check_seconds,
    check_sizes,
)
from ww_callbacks.engine.budget import parse_budget
from ww_callbacks.report import Report
from ww_callbacks.spectra import Precision

WhenBusy = Literal["skip", "wait"]
OnError = Literal["warn", "raise"]
Split = Mapping[str, int | Sequence[int]]
LogEveryLayer = bool | str | Sequence[str]
Figures = bool | Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What :class:`ww_callbacks.Monitor` documents under the same names.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a value that is not allowed.
    """

    every_n_steps: int | None
    layers: Sequence[str] | None
    log_every_layer: LogEveryLayer
    figures: Figures
    on_result: Callable[[Report], object] | None
    max_rows: int
    split: Split | None
    conv_scale: ConvScale
    randomize: bool
    precision: Precision
    interval: Interval
    fit: Fit
    seed: int
    executor: str | Executor
    workers: int
    when_busy: WhenBusy
    slots: int
    budget: float | str | None
    reuse_control: float
    max_bytes: int | None
    layer_timeout: float
    drain_timeout: float
    on_error: OnError

    def __post_init__(self) -> None:
        if self.every_n_steps is not None:
            check_count("every_n_steps", self.every_n_steps)
        check_patterns("layers", self.layers)
        if self.log_every_layer != "auto" and not isinstance(self.log_every_layer, bool):
            if self.log_every_layer is None:
                raise TypeError('log_every_layer: expected "auto", True, False or a list of patterns, got None')
            check_patterns("log_every_layer", self.log_every_layer)
        if not isinstance(self.figures, bool):
            if self.figures is None:
                raise TypeError("figures: expected True, False or a list of patterns, got None")
            check_patterns("figures", self.figures)
        check_callable("on_result", self.on_result)
        check_executor("executor", self.executor)
        check_count("workers", self.workers)
        check_choice("when_busy", self.when_busy, ("skip", "wait"))
        check_count("slots", self.slots)
        parse_budget(self.budget)
        if self.max_bytes is not None:
            check_count("max_bytes", self.max_bytes)
        check_count("max_rows", self.max_rows)
        check_sizes("split", self.split)
        check_seconds("layer_timeout", self.layer_timeout)
        check_seconds("drain_timeout", self.drain_timeout)
        check_choice("on_error", self.on_error, ("warn", "raise"))
        self.settings()

    def settings(self) -> Settings:
        """How single layers are analysed."""
        names = ("conv_scale", "randomize", "precision", "interval", "fit", "seed", "reuse_control")
        return Settings(**{name: getattr(self, name) for name in names})

    def as_arguments(self) -> dict[str, Any]:
        """The options as keyword arguments of Monitor."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
