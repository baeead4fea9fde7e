"""The monitor: when to copy weights, handing them to the worker, collecting results in order, publishing them.

It knows no framework. The callbacks are thin shells over it, and a hand-written loop uses it directly.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ww_callbacks.analysis import ConvScale, Fit, Interval, LayerSpec, analyze_layer
from ww_callbacks.arguments import check_places
from ww_callbacks.options import LogEveryLayer, OnError, Options, WhenBusy
from ww_callbacks.outputs.jsonl import FILE_NAME, JsonlOutput
from ww_callbacks.outputs.metrics import AGGREGATES, aggregate_metrics, layer_metrics, spread
from ww_callbacks.outputs.tensorboard import TensorBoardOutput
from ww_callbacks.report import History, LayerReport, Report
from ww_callbacks.signals.signal import Signal
from ww_callbacks.snapshot import SnapshotBuffer
from ww_callbacks.spectra import Precision
from ww_callbacks.weights import Layer, find_layers, select_layers
from ww_callbacks.weights.patterns import matching
from ww_callbacks.worker.process import WorkerProcess, failed_report

_log = logging.getLogger("ww_callbacks")


class Output(Protocol):
    """A place where results go."""

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Show one report; called in the order of steps, from the training thread."""

    def close(self) -> None:
        """No more reports follow."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A snapshot whose results are not all in."""

    step: int
    wall_time: float
    skipped: int
    slot: int
    layers: tuple[Layer, ...]
    futures: dict[int, Future[LayerReport]]  # by position in layers, in the order of their submission

    def done(self) -> bool:
        return all(future.done() for future in reversed(self.futures.values()))

    def report(self) -> Report:
        return Report.of((self._layer_report(*item) for item in enumerate(self.layers)), self.step)

    def _layer_report(self, position: int, layer: Layer) -> LayerReport:
        if layer.spec is None:
            return layer.skip_report(self.step)
        future = self.futures[position]
        if future.cancelled():
            return failed_report(layer.spec, self.step, "the monitor was closed")
        error = future.exception()
        if error is not None:
            return failed_report(layer.spec, self.step, f"{type(error).__name__}: {error}")
        return future.result()


@dataclass(frozen=True, slots=True)
class Published:
    """What is known at a snapshot step, as plain values; it changes at snapshot steps and at the end only.

    Attributes:
        metrics: the latest ``ww/…`` metrics.
        verdicts: what each attached signal says, by the name it was attached under.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    verdicts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class _Engine:
    """Snapshot memory and worker for one set of layers."""

    def __init__(self, specs: Sequence[LayerSpec], slots: int, layer_timeout: float) -> None:
        self.specs = list(specs)
        self.buffer = SnapshotBuffer([(spec.shape, spec.storage_dtype) for spec in specs], slots)
        self.worker = WorkerProcess(self.buffer, layer_timeout=layer_timeout)

    def close(self) -> None:
        self.worker.shutdown()
        self.buffer.close()


class Monitor:
    """Watches the spectra of a model's weights while a loop trains it.

    Every ``every_n_steps`` optimizer steps the weights are copied into memory shared with a worker process, which
    analyses them while training goes on. Results come back in the order of their steps and are published from the
    thread that calls :meth:`step`. Whatever goes wrong here, training goes on.

    Args:
        model: a torch module, or a mapping name → array whose arrays are changed in place.
        every_n_steps: optimizer steps between snapshots; None for a snapshot only where :meth:`snapshot` is called.
        layers: patterns of layers to keep, ``"!pattern"`` to leave out; None for all.
        log_every_layer: which layers get metrics of their own: "auto" (all up to 64, else 64 spread over the depth
            and kept for the run), True, False, or patterns.
        log_dir: folder for TensorBoard, written to ``<log_dir>/ww``; None for none.
        jsonl: a file for all results as JSON lines, or True for ``<log_dir>/ww_history.jsonl``.
        on_result: called with each report.
        outputs: further places for results.
        max_rows: embeddings with more rows are skipped.
        conv_scale: factor on the eigenvalues of convolutions, see :class:`ww_callbacks.analysis.Settings`.
        randomize: compare each layer with a shuffled copy of itself: correlation traps.
        precision: "float64", or "float32" for half the time and a small error of alpha, which is estimated.
        interval: 95 % interval of alpha: "asymptotic", or "bootstrap" with xmin chosen anew in 40 resampled spectra.
        fit: "PL", a power law, or "TPL", a truncated one.
        seed: of the shuffle and of all resampling.
        when_busy: what happens to a snapshot for which no slot is free: "skip" it (and count), or "wait": each
            snapshot first collects the results of the one before, and nothing is collected in between, so that
            what is known at a step depends on the step alone.
        slots: copies of the analysed weights that may be alive at the same time.
        layer_timeout: seconds that the analysis of one layer may take.
        drain_timeout: seconds to wait for late results at the end, and for a slot where one is waited for.
        on_error: "warn" once and end monitoring, or "raise".

    Raises:
        TypeError: an argument, or the model, is of the wrong kind.
        ValueError: an argument has a value that is not allowed, or a pattern matches no layer.
        ImportError: ``log_dir`` is given and tensorboard is not installed.

    Example:
        >>> import numpy as np
        >>> import ww_callbacks as ww
        >>> weights = {"fc": np.random.default_rng(0).standard_normal((100, 60))}
        >>> with ww.Monitor(weights, every_n_steps=10) as monitor:
        ...     for step in range(1, 21):
        ...         weights["fc"] *= 1.01
        ...         monitor.step(step)
        >>> monitor.history.steps[0], monitor.history.steps[-1]
        (0, 20)
    """

    def __init__(
        self,
        model: Any,
        *,
        every_n_steps: int | None = 200,
        layers: Sequence[str] | None = None,
        log_every_layer: LogEveryLayer = "auto",
        log_dir: str | os.PathLike[str] | None = None,
        jsonl: bool | str | os.PathLike[str] | None = None,
        on_result: Callable[[Report], object] | None = None,
        outputs: Iterable[Output] = (),
        max_rows: int = 50_000,
        conv_scale: ConvScale = "weightwatcher",
        randomize: bool = True,
        precision: Precision = "float64",
        interval: Interval = "asymptotic",
        fit: Fit = "PL",
        seed: int = 0,
        when_busy: WhenBusy = "skip",
        slots: int = 2,
        layer_timeout: float = 600.0,
        drain_timeout: float = 60.0,
        on_error: OnError = "warn",
    ) -> None:
        self._options = Options(
            every_n_steps=every_n_steps,
            layers=layers,
            log_every_layer=log_every_layer,
            on_result=on_result,
            max_rows=max_rows,
            conv_scale=conv_scale,
            randomize=randomize,
            precision=precision,
            interval=interval,
            fit=fit,
            seed=seed,
            when_busy=when_busy,
            slots=slots,
            layer_timeout=layer_timeout,
            drain_timeout=drain_timeout,
            on_error=on_error,
        )
        self._settings = self._options.settings()
        self._every = every_n_steps
        self._model = model
        check_places(log_dir, jsonl)
        self._check_model()
        self._outputs = [*outputs, *self._own_outputs(log_dir, jsonl)]
        self._engine: _Engine | None = None
        self._pending: deque[_Pending] = deque()
        self._logged_layers: frozenset[str] | None = None
        self._last_step: int | None = None
        self._last_snapshot: int | None = None
        self._last_skipped: int | None = None
        self._signals: dict[str, Signal] = {}
        self._latest = Published()
        self._warned_empty = False
        self._closed = False
        self.history = History()
        self.skipped = 0
        self.published = Published()

    def start(self, step: int = 0, *, baseline: bool = True) -> None:
        """Begin, with a first snapshot.

        Args:
            step: optimizer steps finished so far.
            baseline: whether to take that snapshot.
        """
        if self._last_step is None:
            self._last_step = step = int(step)
            if baseline:
                self.snapshot(step)

    def step(self, step: int) -> None:
        """Tell how far training is; call it after each optimizer step (or each batch).

        Takes a snapshot where a multiple of ``every_n_steps`` has been reached or passed since the last call, and
        publishes results that have come in. Without a snapshot it takes some microseconds.

        Args:
            step: number of finished optimizer steps.
        """
        if self._closed:
            return
        step = int(step)
        last = self._last_step
        if last is None:
            self.start(step)
            return
        self._last_step = step
        if self._every is not None and crosses(last, step, self._every):
            self.snapshot(step)
        elif self._pending and self._options.when_busy == "skip":
            self._safely(self._collect)

    def is_due(self, step: int) -> bool:
        """Whether :meth:`step` would take a snapshot.

        Args:
            step: number of finished optimizer steps.
        """
        if self._closed or self._every is None:
            return False
        return self._last_step is None or crosses(self._last_step, step, self._every)

    def attach(self, name: str, signal: Signal) -> None:
        """Let a signal judge the history after each report; its metrics are logged with the report.

        Args:
            name: under which its verdict is found in ``published.verdicts``.
            signal: what judges.

        Raises:
            ValueError: another signal has that name.
        """
        if name in self._signals:
            raise ValueError(f"name: {name!r} is attached already, choose another name")
        self._signals[name] = signal

    @property
    def metrics(self) -> Mapping[str, float]:
        """The latest ``ww/…`` metrics, as of the last snapshot step."""
        return self.published.metrics

    @property
    def closed(self) -> bool:
        """Whether monitoring has ended."""
        return self._closed

    @property
    def has_snapshot(self) -> bool:
        """Whether a snapshot has been taken."""
        return self._last_snapshot is not None

    def snapshot(self, step: int) -> None:
        """Take a snapshot now, whatever the schedule says; nothing where this step has one.

        Args:
            step: number of finished optimizer steps.
        """
        step = int(step)
        if self._last_step is None or step > self._last_step:
            self._last_step = step
        if self._last_snapshot is None or step > self._last_snapshot:
            patience = self._options.drain_timeout if self._options.when_busy == "wait" else 0.0
            self._safely(lambda: self._snapshot(step, patience))

    def wait_for_first(self) -> bool:
        """Wait until the first results are published, at most ``drain_timeout`` seconds.

        Returns:
            Whether there are any.
        """
        if not len(self.history) and self._pending and not self._closed:
            self._safely(lambda: self._collect(1, self._options.drain_timeout))
            self._update_published()
        return len(self.history) > 0

    def finish(self, step: int | None = None) -> None:
        """Take a last snapshot, wait for all results (at most ``drain_timeout`` seconds), publish them and close.

        Args:
            step: number of finished optimizer steps; None for that of the last call of :meth:`step`.
        """
        if self._closed:
            return
        step = self._last_step if step is None else int(step)
        self._last_step = step
        end = time.monotonic() + self._options.drain_timeout
        if step is not None and (self._last_snapshot is None or step > self._last_snapshot):
            self._safely(lambda: self._snapshot(step, end - time.monotonic()))
        self._safely(lambda: self._collect(len(self._pending), end - time.monotonic()))
        self._update_published()
        if self._pending and not self._closed:
            self._warn(f"{len(self._pending)} snapshots were not analysed within {self._options.drain_timeout:g} s")
        self.close()

    def close(self) -> None:
        """End the worker and close the outputs at once; results that are not in are dropped."""
        if self._closed:
            return
        self._closed = True
        self._pending.clear()
        self._close_engine()
        outputs, self._outputs = self._outputs, []
        for output in outputs:
            self._call_output(output, output.close)

    def __enter__(self) -> Monitor:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()

    def _check_model(self) -> None:
        """Unknown models and misspelt patterns are the user's errors: they are told before training begins."""
        found = find_layers(self._model, self._options.max_rows)
        select_layers(found, self._options.layers)
        if not isinstance(self._options.log_every_layer, (bool, str)):
            matching([layer.name for layer in found], self._options.log_every_layer, "log_every_layer")

    def _snapshot(self, step: int, patience: float) -> None:
        """Copy the weights and hand them over; where there is patience, first wait so long for what is under way."""
        self._collect(len(self._pending) if patience > 0 else 0, patience)
        self._update_published()
        layers = select_layers(find_layers(self._model, self._options.max_rows), self._options.layers)
        analysed = [layer for layer in layers if layer.spec is not None]
        if not analysed:
            self._warn_empty(layers)
            return
        engine = self._engine_for([layer.spec for layer in analysed if layer.spec is not None])
        slot = engine.buffer.take([layer.read for layer in analysed if layer.read is not None])
        if slot is None:
            self.skipped += 1
            self._last_skipped = step
            return
        if step == self._last_skipped:  # made up for
            self.skipped -= 1
        self._last_snapshot = step
        wall_time = time.time()
        futures = self._submit(engine, slot, step, [i for i, layer in enumerate(layers) if layer.spec is not None])
        self._pending.append(_Pending(step, wall_time, self.skipped, slot, layers, futures))

    def _submit(
        self, engine: _Engine, slot: int, step: int, positions: Sequence[int]
    ) -> dict[int, Future[LayerReport]]:
        """Layers as separate tasks, the largest first."""
        order = sorted(enumerate(engine.specs), key=lambda item: _cost(item[1]), reverse=True)
        return {
            positions[index]: engine.worker.submit(
                analyze_layer, spec, engine.buffer.array(slot, index), self._settings, step
            )
            for index, spec in order
        }

    def _engine_for(self, specs: list[LayerSpec]) -> _Engine:
        """The engine for this set of layers; another set (layers initialised late, replaced) gets a new one."""
        if self._engine is not None and self._engine.specs != specs:
            self._collect(len(self._pending), self._options.drain_timeout)
            self._pending.clear()
            self._close_engine()
        if self._engine is None:
            self._engine = _Engine(specs, self._options.slots, self._options.layer_timeout)
        return self._engine

    def _close_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _collect(self, wait_for: int = 0, patience: float = 0.0) -> None:
        """Publish what is done, in order; before that wait for the first ``wait_for`` snapshots under way."""
        if wait_for:
            awaited = [f for _, p in zip(range(wait_for), self._pending, strict=False) for f in p.futures.values()]
            wait(awaited, timeout=min(max(patience, 0.0), threading.TIMEOUT_MAX))
        while self._pending and self._pending[0].done():
            pending = self._pending.popleft()
            if self._engine is not None:
                self._engine.buffer.release(pending.slot)
            self._publish(pending)
        if self._engine is not None and self._engine.worker.broken:
            raise RuntimeError(self._engine.worker.broken)

    def _publish(self, pending: _Pending) -> None:
        report = self.history.append(pending.report())
        if self._logged_layers is None:
            self._logged_layers = self._choose_logged(report)
        lag = (self._last_step or 0) - pending.step
        judgements = {name: signal.judge(self.history) for name, signal in self._signals.items()}
        judged = {key: value for judgement in judgements.values() for key, value in judgement.metrics.items()}
        metrics = aggregate_metrics(report, lag_steps=lag, skipped=pending.skipped)
        metrics |= {key: value for key, value in judged.items() if key.startswith(AGGREGATES)}
        self._latest = Published(metrics, {name: judgement.verdict for name, judgement in judgements.items()})
        everything = metrics | layer_metrics(report, self._logged_layers) | judged
        for output in list(self._outputs):
            self._call_output(output, partial(output.write, report, everything, pending.wall_time))
        if self._options.on_result is not None:
            self._options.on_result(report)

    def _update_published(self) -> None:
        """It changes at snapshot steps and at the end only, so that decisions depend on the step alone."""
        self.published = self._latest

    def _choose_logged(self, report: Report) -> frozenset[str]:
        names = [layer.name for layer in report.layers]
        if self._options.log_every_layer == "auto":
            return frozenset(spread(report.layers))
        if isinstance(self._options.log_every_layer, bool):
            return frozenset(names if self._options.log_every_layer else ())
        return frozenset(matching(names, list(self._options.log_every_layer), "log_every_layer"))

    def _safely(self, action: Callable[[], None]) -> None:
        """Training never fails because of us: an error ends the monitoring, not the run."""
        try:
            if not self._closed:
                action()
        except Exception as error:
            self.close()
            if self._options.on_error == "raise":
                raise
            self._warn(f"monitoring has ended, training goes on: {type(error).__name__}: {error}")
            _log.debug("monitoring has ended", exc_info=True)

    def _call_output(self, output: Output, action: Callable[[], None]) -> None:
        """One place that fails (a full disk) is given up with a warning; the others go on."""
        try:
            action()
        except Exception as error:
            if self._options.on_error == "raise":
                raise
            self._warn(f"no more results go to {type(output).__name__}: {type(error).__name__}: {error}")
            if output in self._outputs:
                self._outputs.remove(output)
                with contextlib.suppress(Exception):
                    output.close()

    def _own_outputs(
        self, log_dir: str | os.PathLike[str] | None, jsonl: bool | str | os.PathLike[str] | None
    ) -> list[Output]:
        wanted: list[Callable[[], Output]] = []
        if log_dir is not None:
            wanted.append(lambda: TensorBoardOutput(Path(log_dir) / "ww"))
        if jsonl:
            wanted.append(lambda: JsonlOutput(Path(str(log_dir)) / FILE_NAME if jsonl is True else jsonl))
        outputs: list[Output] = []
        for make in wanted:
            try:
                outputs.append(make())
            except OSError as error:
                if self._options.on_error == "raise":
                    raise
                self._warn(f"results are not written: {error}")
        return outputs

    def _warn_empty(self, layers: Sequence[Layer]) -> None:
        if not self._warned_empty and not any(layer.is_late for layer in layers):
            self._warned_empty = True
            found = "; ".join(f"{layer.name}: {layer.reason}" for layer in layers) or "no layer holds weights"
            self._warn(f"nothing to analyse in this model ({found})")

    def _warn(self, message: str) -> None:
        warnings.warn(f"ww_callbacks: {message}", RuntimeWarning, stacklevel=2)


def crosses(last: int, step: int, every: int) -> bool:
    """Whether a multiple of ``every`` was reached or passed on the way from ``last`` to ``step``.

    Example:
        >>> [crosses(last, step, 10) for last, step in [(8, 9), (9, 10), (10, 10), (8, 12)]]
        [False, True, False, True]
    """
    return step // every > last // every


def _cost(spec: LayerSpec) -> int:
    pooled, rows, columns = spec.matrix_shape
    return pooled * max(rows, columns) * min(rows, columns) ** 2
