"""The arguments that Monitor and all callbacks share: declared, documented and validated here only."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ww_callbacks.analysis import ConvScale, Fit, Interval, Settings
from ww_callbacks.checks import (
    arguments_of,
    check_callable,
    check_choice,
    check_count,
    check_executor,
    check_flag,
    check_outputs,
    check_path,
    check_patterns,
    check_places,
    check_seconds,
    check_sizes,
)
from ww_callbacks.engine import Limits
from ww_callbacks.engine.budget import parse_budget
from ww_callbacks.outputs.output import Output
from ww_callbacks.report import Finding, Report
from ww_callbacks.report.keys import PREFIX, is_prefix
from ww_callbacks.spectra import Precision
from ww_callbacks.weights import Split
from ww_callbacks.weights.files.urls import is_url, without_secrets
from ww_callbacks.worker.submits import Submits

OnError = Literal["warn", "raise"]
LogEveryLayer = bool | str | Sequence[str]
Figures = bool | Sequence[str]

_WITHOUT_RESULTS = frozenset(
    {"every_n_steps", "layers", "spool", "executor", "workers", "deterministic", "split", "timeout", "on_error"}
)
"""The arguments that have an effect if nothing is analysed."""


@dataclass(kw_only=True, eq=False)
class Options:
    """The arguments of :class:`ww_callbacks.Monitor` and of the ``SpectralMonitor`` of every framework.

    Those classes inherit from this one, so each argument is also an attribute.

    Args:
        every_n_steps: optimizer steps between snapshots; None for snapshots only at the start, at the end and when
            :meth:`ww_callbacks.Monitor.snapshot` is called.
        layers: patterns of the layers to analyse, ``"!pattern"`` to exclude; None for all. An embedding of more than
            50,000 rows is skipped unless its full name is among them.
        log_dir: TensorBoard folder, written to ``<log_dir>/ww``; None for no TensorBoard.
        jsonl: JSON lines file for all results, or True for ``<log_dir>/ww_history.jsonl``.
        on_result: called with each :class:`~ww_callbacks.report.Report`. If it raises, it is not called again.
        on_finding: called with a :class:`~ww_callbacks.report.Finding` when it is raised, and again, with ``until``,
            when it is withdrawn. If it raises, it is not called again.
        outputs: further outputs, each with the methods of :class:`ww_callbacks.monitor.Output`.
        log_every_layer: layers with their own metrics: "auto" (all if there are at most 16, otherwise 16 spread over
            the depth, and the worst layers of each finding, at most 16 more; the experts of a block count as one and
            have metrics together), True, False, or patterns.
        prefix: what the names of the metrics begin with: ``ww/alpha``, ``ww_layer/alpha/000.fc``. Two monitors in one
            training need two prefixes, and their own ``log_dir`` and ``jsonl``.
        figures: figures, histograms and a summary table for TensorBoard, drawn in a separate process: True (spectra of
            the worst layer and of three layers spread over the depth), False, or patterns for up to 8 layers.
        budget: CPU time for the analysis: a share of one core such as 0.05, or seconds per snapshot such as "30s". If
            not all layers fit, they take turns, the least recently analysed first. None analyses all layers in every
            snapshot.
        spool: folder into which the worker process writes each snapshot, as ``step-000000400.safetensors``. Nothing is
            analysed in this run: :func:`ww_callbacks.follow` or :func:`ww_callbacks.analyze` read the files, at any
            time and with any settings. Arguments about results are an error with it.
        executor: where layers are analysed: "process" (a separate process), "thread", "sync" (in the training thread,
            which blocks training), a ``concurrent.futures.Executor`` or a ``distributed.Client``, neither of which is
            shut down.
        workers: number of worker processes or threads; ignored for an external executor.
        deterministic: make the results known at a step depend on the step alone: training waits at each snapshot for
            the results of the one before, where they are not in yet. None for yes if training acts on results: with a
            stop rule or with applied learning-rate ratios. False: training never waits, results arrive when they are
            ready, and a snapshot is skipped (and counted) while at least two others are pending whose copies fill 32
            MiB, so that the step of a stop depends on the speed of the machine. A ``budget`` depends on it in any case.
        split: how to split fused projections: pattern → number of equal parts or list of sizes, such as
            ``{"*.qkv": 3}``.
        updates: analyse also how each layer changed since its previous and since its first snapshot (``update_norm``,
            ``update_rank``, ``learned_rank`` and so on). Needs twice the memory of the weights in addition, and 1.3
            to 2 times the CPU time; not with an executor of your own.
        conv_scale: scale of convolution eigenvalues, see :class:`ww_callbacks.analysis.Settings`.
        randomize: compare each layer with a shuffled copy of itself to find correlation traps.
        precision: "float64", or "float32", which takes about three quarters of the time with a small, estimated error
            of alpha.
        interval: 95 % confidence interval of alpha: "asymptotic", or "bootstrap" (xmin is chosen anew in 40 resampled
            spectra).
        fit: "PL" (power law) or "TPL" (truncated power law).
        seed: seed of the shuffle and of all resampling.
        min_evals: minimum number of eigenvalues that are not 0 for a fit. At least 8; alpha of fewer than 20 has a wide
            interval and is not ``reliable``.
        timeout: seconds to wait for pending results at the end, and at each snapshot if ``deterministic``. If that is
            too short at a snapshot, a warning says so, and training does not wait at later ones.
        on_error: "warn" once and stop monitoring, or "raise".

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed.
    """

    every_n_steps: int | None = 200
    layers: Sequence[str] | None = None
    log_dir: str | os.PathLike[str] | None = None
    jsonl: bool | str | os.PathLike[str] | None = None
    on_result: Callable[[Report], object] | None = None
    on_finding: Callable[[Finding], object] | None = None
    outputs: Sequence[Output] = ()
    log_every_layer: LogEveryLayer = "auto"
    prefix: str = PREFIX
    figures: Figures = True
    budget: float | str | None = None
    spool: str | os.PathLike[str] | None = None
    executor: str | Submits = "process"
    workers: int = 1
    deterministic: bool | None = None
    split: Split | None = None
    updates: bool = False
    conv_scale: ConvScale = "weightwatcher"
    randomize: bool = True
    precision: Precision = "float64"
    interval: Interval = "asymptotic"
    fit: Fit = "PL"
    seed: int = 0
    min_evals: int = 20
    timeout: float = 60.0
    on_error: OnError = "warn"

    def __post_init__(self) -> None:
        if self.every_n_steps is not None:
            check_count("every_n_steps", self.every_n_steps)
        check_patterns("layers", self.layers)
        self._check_places()
        if self.log_every_layer != "auto" and not isinstance(self.log_every_layer, bool):
            if self.log_every_layer is None:
                raise TypeError('log_every_layer: expected "auto", True, False or a list of patterns, got None')
            check_patterns("log_every_layer", self.log_every_layer)
        self._check_prefix()
        if not isinstance(self.figures, bool):
            if self.figures is None:
                raise TypeError("figures: expected True, False or a list of patterns, got None")
            check_patterns("figures", self.figures)
        check_outputs("outputs", self.outputs)
        check_callable("on_result", self.on_result)
        check_callable("on_finding", self.on_finding)
        check_executor("executor", self.executor)
        check_count("workers", self.workers)
        check_flag("deterministic", self.deterministic, or_none=True)
        check_sizes("split", self.split)
        check_flag("updates", self.updates)
        if self.updates and not isinstance(self.executor, str):
            raise ValueError('updates: requires executor "process", "thread" or "sync"')
        self._check_spool()
        check_seconds("timeout", self.timeout)
        check_choice("on_error", self.on_error, ("warn", "raise"))
        self.settings()
        self.limits()

    @property
    def alpha_key(self) -> str:
        """Name of the mean alpha, which progress bars show."""
        return f"{self.prefix}/alpha"

    def settings(self) -> Settings:
        """The settings of the analysis."""
        names = {field.name for field in fields(Settings)}
        return Settings(**{name: value for name, value in self.as_arguments().items() if name in names})

    def limits(self) -> Limits:
        """The resources that the analysis may use."""
        return Limits(
            executor=self.executor,
            workers=self.workers,
            budget=parse_budget(self.budget),
            updates=self.updates,
            spool=None if self.spool is None else Path(self.spool).absolute(),
        )

    def check_results(self, name: str) -> None:
        """Check that there will be results, which a signal needs.

        Args:
            name: of the signal.

        Raises:
            ValueError: with ``spool`` there are none.
        """
        if self.spool is not None:
            raise ValueError(f"spool: signal {name!r} needs results, and nothing is analysed in this run; remove one")

    def as_arguments(self) -> dict[str, Any]:
        """The shared options as keyword arguments of Monitor."""
        return arguments_of(self, Options)

    def _check_prefix(self) -> None:
        if not isinstance(self.prefix, str):
            raise TypeError(f"prefix: expected a string, got {self.prefix!r}")
        if not is_prefix(self.prefix):
            raise ValueError(f'prefix: expected letters, digits, "_", "." and "-", got {self.prefix!r}')

    def _check_spool(self) -> None:
        check_path("spool", self.spool)
        if self.spool is None:
            return
        if is_url(self.spool):
            raise ValueError(f"spool: expected a folder, got the URL {without_secrets(str(self.spool))!r}")
        if self.executor != "process":
            raise ValueError(f'spool: requires executor="process", got {self.executor!r}')
        given = {name: value for name, value in self.as_arguments().items() if name not in _WITHOUT_RESULTS}
        useless = [name for name, value in given.items() if value and value != getattr(Options, name)]
        if useless:
            raise ValueError(
                f"spool: nothing is analysed in this run, so {', '.join(useless)} would have no effect; remove "
                f"{'it' if len(useless) == 1 else 'them'} here, and give results their settings in ww_callbacks.follow"
            )

    def _check_places(self) -> None:
        check_places(self.log_dir, self.jsonl)
