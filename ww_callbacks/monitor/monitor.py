"""The monitor: the schedule of snapshots and the life cycle of a run.

This module knows no framework. The callbacks are thin layers over it, and hand-written training loops use it directly.
The engine copies and analyses weights, the publisher passes reports on; :mod:`ww_callbacks.monitor.seams` states the
interfaces between them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

from ww_callbacks.checks import checked_step, warn
from ww_callbacks.engine import Engine, Missed, Status, wait_for
from ww_callbacks.monitor.options import Options
from ww_callbacks.monitor.publishing import Published, Publisher, drawn_layers, logged_layers, own_outputs
from ww_callbacks.monitor.resuming import Resumed
from ww_callbacks.monitor.schedule import crosses
from ww_callbacks.monitor.waiting import Waiting
from ww_callbacks.report import History
from ww_callbacks.signals.signal import Signal, check_signal
from ww_callbacks.signals.stop import VERDICT, progress_message
from ww_callbacks.weights import Layer, find_layers, select_layers
from ww_callbacks.weights.finder import LayerFinder
from ww_callbacks.worker import forking
from ww_callbacks.worker.spool import snapshot_path, spooled_steps

FIGURES_TIMEOUT = 10.0
"""Seconds that the end of a run waits for figures, within ``timeout``."""

PIECE_SECONDS, PIECE_SHARE = 0.0005, 0.01
"""A step spends at most so many seconds, or this share of the time since the last one, on results that came in. What is
under way then is finished, which takes longer in large models."""

_SHORTER = "timeout= sets the limit; layers= and randomize=False shorten it"

_log = logging.getLogger("ww_callbacks")


@dataclass(kw_only=True, eq=False)
class Monitor(Options):
    """Monitors the spectra of a model's weights in a training loop.

    Every ``every_n_steps`` optimizer steps the weights are copied into memory shared with a worker process, which
    analyses them while training continues. Results come back in the order of their steps and are published from the
    thread that calls :meth:`step`. If the monitor fails, training continues. It may be called from several threads: one
    call is carried out after the other. In a forked process (a DataLoader worker) it does nothing.

    Args:
        model: a torch module, or a mapping name → array whose arrays are changed in place.

    All other arguments are those of :class:`ww_callbacks.monitor.options.Options`.

    Raises:
        TypeError: an argument, or the model, has the wrong type.
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

    steps_are_estimated: ClassVar[bool] = False
    """Whether steps may be corrected downwards, so that no warning says that they go back."""

    model: Any = field(kw_only=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_model()
        self._spool = self.limits().spool
        if self._spool is not None:
            self._make_folder(self._spool)
        own = own_outputs(self.log_dir, self.jsonl, prefix=self.prefix, strict=self.on_error == "raise")
        self._find_layers = LayerFinder(self.model, self.layers, self.split)
        self._engine = Engine(self.settings(), self.limits())
        self._publisher = Publisher(self, [*self.outputs, *own], self._engine.draw)
        self._waiting = Waiting(self.deterministic, self.timeout)
        self._hook_seconds = 0.0
        self._restored: Resumed | None = None
        self._last_step: int | None = None
        self._last_snapshot: int | None = None
        self._num_restored = 0
        self._missed = Missed()
        self._warned_empty = self._warned_missed = self._warned_back = self._warned_unwritten = False
        self._fell_from = 0
        self._is_asked = False
        self._under_way: Iterator[None] | None = None
        self._last_piece = 0.0
        self._closed = self._is_ending = self._is_forked = False
        self._lock = threading.RLock()  # reentrant: what is called with a result may call the monitor
        self._process = os.getpid()
        if own:  # their threads do not exist in a forked process
            forking.close_in_children(self)
        self._is_forgotten = weakref.finalize(self, _say_forgotten, self._engine.under_way, os.getpid())

    def start(self, step: int | None = None, *, baseline: bool = True) -> None:
        """Start, with a first snapshot unless :meth:`load_state_dict` restored one that is still valid at this step.

        Args:
            step: optimizer steps finished so far; None for those of the checkpoint, 0 without one.
            baseline: whether to take that snapshot.
        """
        self._say_forked()
        with self._lock:
            if self._last_step is None and not self._closed:
                forking.close_in_children(self)
                self._start(step, baseline=baseline)

    def _start(self, step: int | None, *, baseline: bool) -> None:
        known = self._restored
        self._last_step = step = (known.step if known is not None else 0) if step is None else checked_step(step)
        if known is not None and known.step > step:
            warn(f"the checkpoint is of step {known.step}, training starts at step {step}: its history is left out")
            known = None
        if known is not None:
            known = self._resume(known, step)
        if self._spool is not None:
            self._say_later(self._spool, step)
        if baseline and (known is None or known.is_snapshot_due(step, self.every_n_steps, self._last_snapshot)):
            self.snapshot(step)

    def state_dict(self) -> dict[str, Any]:
        """The state needed to resume from a checkpoint, as plain values: the history, what is published, and the step.

        Pending results are not included: the resumed run takes their snapshot again.

        Example:
            >>> import numpy as np
            >>> import ww_callbacks as ww
            >>> weights = {"fc": np.random.default_rng(0).standard_normal((100, 60))}
            >>> with ww.Monitor(weights, every_n_steps=10, deterministic=True) as monitor:
            ...     monitor.step(10)
            >>> second = ww.Monitor(weights, every_n_steps=10)
            >>> second.load_state_dict(monitor.state_dict())
            >>> with second:
            ...     second.step(20)
            >>> second.history.steps
            [0, 10, 20]
        """
        with self._lock:
            if self._last_step is None:
                return self._restored.state_dict() if self._restored is not None else {}
            if self._under_way is not None:
                self._safely(self._collect)
            known = Resumed(self._last_step, self._last_snapshot, self._missed, self.history, self.published)
            return known.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint; call it before :meth:`start`.

        Args:
            state: of :meth:`state_dict`.

        A state that is damaged, of another version or of another model does not end the run: a warning says that its
        history is left out. If at least half of its layers are in this model, with the same size, their history is
        kept.

        Raises:
            ValueError: the monitor has been started already; with ``on_error="raise"``, ``state`` is not the state of a
                monitor.
        """
        if self._last_step is not None:
            raise ValueError("state: load it before the monitor is started")
        self._restored = None
        if isinstance(state, dict) and not state:
            return
        try:
            self._restored = Resumed.from_state_dict(state)
        except ValueError as error:
            if self.on_error == "raise":
                raise
            warn(f"{error}; it is left out, a new history begins")

    def step(self, step: int) -> None:
        """Take a snapshot if one is due, and publish results; call it after each optimizer step (or each batch).

        A snapshot is due if a multiple of ``every_n_steps`` has been reached or passed since the last call. Without a
        snapshot the call takes a few microseconds.

        Args:
            step: number of finished optimizer steps.
        """
        if self._closed or self._is_ending:
            self._say_forked()
            return
        step = checked_step(step)
        last, every = self._last_step, self.every_n_steps
        is_due = last is None or (every is not None and crosses(last, step, every))
        if is_due or step < (last or 0) or step == 1 or self._engine.pending or self._under_way is not None:
            with self._lock:
                self._step(step)
        else:  # as a rule; without the lock, which would take as long as everything else
            self._last_step = step

    def _step(self, step: int) -> None:
        last = self._last_step
        if last is None:
            self.start(step)
            return
        if step < last:
            self._fell_from = last
        if step == 1:
            self._say_back()
        self._last_step = step
        if self.every_n_steps is not None and crosses(last, step, self.every_n_steps):
            self.snapshot(step)
        elif self._engine.pending or self._under_way is not None:
            self._safely(self._engine.submit if self._waiting.is_on else self._collect_some)

    def is_due(self, step: int) -> bool:
        """Whether :meth:`step` would take a snapshot.

        Args:
            step: number of finished optimizer steps.
        """
        if self._closed or self.every_n_steps is None:
            return False
        return self._last_step is None or crosses(self._last_step, step, self.every_n_steps)

    def attach(self, name: str, signal: Signal, *, acts: bool | None = None) -> None:
        """Let a signal judge the history after each report; its metrics are logged with the report.

        If the signal has an attribute ``needs``, the settings of the analysis that it names are turned on.

        Args:
            name: name of its verdict in ``published.verdicts``.
            signal: judges the history.
            acts: whether training acts on the verdict, so that it has to depend on the step alone: from now on
                training waits at snapshots, unless ``deterministic`` is False. None for yes if the name is "stop".

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: another signal has that name, or with ``spool`` there are no results.
        """
        check_signal(name, signal, acts)
        self.check_results(name)
        with self._lock:
            self._publisher.attach(name, signal)
            self._waiting.acts |= name == VERDICT if acts is None else acts
            self._engine.need(getattr(signal, "needs", ()))

    @property
    def history(self) -> History:
        """The reports so far."""
        return self._publisher.history

    @property
    def published(self) -> Published:
        """What is known, as of the last snapshot step."""
        return self._publisher.published

    @property
    def metrics(self) -> Mapping[str, float]:
        """The latest ``ww/…`` metrics, as of the last snapshot step."""
        return self.published.metrics

    def lr_ratios(self) -> dict[str, float]:
        """The factor for the learning rate of each layer, by name, as of the last snapshot step.

        The factors come from the :class:`~ww_callbacks.signals.learning_rate.LayerRatios` attached as "lr_ratio". If
        none is attached, they come from one with its defaults, without ``alpha_farms``: it compares layers of one
        aspect ratio only. Empty before the first result.
        """
        return self._publisher.lr_ratios()

    @property
    def should_stop(self) -> bool:
        """Whether training should end, as of the last snapshot step; :attr:`stop_reason` says why.

        The rules are those of the :class:`~ww_callbacks.EarlyStopping` attached as "stop". If none is attached, the
        default rules apply, without logging their metrics; pass ``deterministic=True`` then, so that the same run
        decides the same. The end of a run in which this was read says how near the rules were (level INFO).
        """
        self._is_asked = True
        return self.published.should_stop

    @property
    def stop_reason(self) -> str:
        """Why training should end: rule, judged step and step of the verdict, then layer, value and interval."""
        return self.published.stop_reason

    def record(self, name: str, value: float, step: int | None = None) -> None:
        """Record a measured value, for ``EarlyStopping(and_monitor=name)``.

        Args:
            name: of the metric, such as "val_loss".
            value: of the metric.
            step: finished optimizer steps when it was measured; None for that of the last call of :meth:`step`.
        """
        with self._lock:
            self.history.record(name, value, self._last_step if step is None else checked_step(step))

    @property
    def last_step(self) -> int | None:
        """Finished optimizer steps at the last call; None before the start."""
        return self._last_step

    @property
    def waits(self) -> bool:
        """Whether training waits at the next snapshot for pending results; see ``deterministic``."""
        return self._waiting.is_on

    @property
    def skipped(self) -> int:
        """Snapshots that were not taken because no slot was free."""
        return self._missed.skipped

    @property
    def over_budget(self) -> int:
        """Snapshots that were not taken because the budget was used up."""
        return self._missed.over_budget

    @property
    def closed(self) -> bool:
        """Whether monitoring has ended."""
        return self._closed

    @property
    def last_snapshot(self) -> int | None:
        """The step of the last snapshot; None before the first."""
        return self._last_snapshot

    @property
    def has_snapshot(self) -> bool:
        """Whether a snapshot has been taken."""
        return self._last_snapshot is not None

    def status(self) -> Status:
        """The state of the monitor now, and what it cost so far; ``str()`` of it is one line.

        Example:
            >>> import numpy as np
            >>> import ww_callbacks as ww
            >>> weights = {"fc": np.random.default_rng(0).standard_normal((100, 60))}
            >>> with ww.Monitor(weights) as monitor:
            ...     monitor.step(1)
            >>> monitor.status().published, monitor.status().pending
            (2, 0)
        """
        return self._engine.status(
            self._last_step or 0,
            published=self.history.seen,
            missed=self._missed,
            waited_seconds=self._waiting.seconds,
            hook_seconds=self._hook_seconds,
        )

    def snapshot(self, step: int) -> None:
        """Take a snapshot now, whatever the schedule says; do nothing if this step has one.

        Args:
            step: number of finished optimizer steps.
        """
        step = checked_step(step)
        if self._closed or self._is_ending:
            self._say_forked()
            return
        with self._lock:
            if self._last_step is None or step > self._last_step:
                self._last_step = step
            if self._is_new(step):
                self._safely(lambda: self._snapshot(step))

    def wait_for_first(self) -> bool:
        """Wait until the first results are published, at most ``timeout`` seconds.

        Returns:
            Whether there are any.
        """
        self._say_forked()
        if not self.published.reports:
            self._safely(self._wait_for_first)
        with self._lock:
            if not self.published.reports:  # they may have come in since the last snapshot step
                self._publisher.update(self._last_step)
            return len(self.history) > 0

    def finish(self, step: int | None = None) -> None:
        """Take a last snapshot, wait for all results (at most ``timeout`` seconds), publish them and close.

        Args:
            step: number of finished optimizer steps; None for that of the last call of :meth:`step`.
        """
        self._say_forked()
        self._is_ending = True  # other threads need not wait until it has ended
        try:
            with self._lock:
                if not self._closed:
                    self._finish(self._last_step if step is None else checked_step(step))
        finally:
            self._is_ending = False

    def _finish(self, step: int | None) -> None:
        self._last_step = step
        end = time.monotonic() + self.timeout
        if step is not None and self._is_new(step):
            self._safely(lambda: self._snapshot(step, end - time.monotonic()))
        self._safely(lambda: self._collect(self._engine.pending, end - time.monotonic()))
        self._safely(lambda: self._publisher.finish(min(end, time.monotonic() + FIGURES_TIMEOUT)))
        self._publisher.update(self._last_step)
        if self._engine.pending and not self._closed:
            done = "analysed" if self._spool is None else "written"
            warn(f"{self._engine.pending} snapshots were not {done} within {self.timeout:g} s")
        if self._is_asked and not self._closed:
            self._say_verdict()
        self._end()

    def close(self) -> None:
        """Stop the worker and close the outputs at once. Pending results are dropped; the log says which."""
        self._say_forked()
        with self._lock:
            if self._under_way is not None:
                self._safely(self._collect)
            if self._engine.under_way and not self._closed:
                _log.warning("monitoring was closed: %s (finish() waits for them)", _dropped(self._engine.under_way))
            self._end()

    def close_in_child(self) -> None:
        """End monitoring in a forked process. The process that started the monitor goes on with it."""
        self._closed = self._is_forked = True
        self._lock = threading.RLock()  # another thread may have held it, which does not exist here

    def _end(self) -> None:
        """Stop the worker and close the outputs at once."""
        if self._closed:
            return
        self._is_forgotten.detach()
        if self.has_snapshot:
            _log.info("%s", self.status())
            self._say_missed()
        self._closed = True
        self._under_way = None
        self._engine.close()
        self._publisher.close()

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

    def _resume(self, known: Resumed, step: int) -> Resumed | None:
        """Restore what belongs to this model; None if nothing does."""
        try:
            kept, says = known.of_model(self._find_layers(), step)
            if kept is not None:
                self._publisher.restore(kept.history, kept.published)
                self._last_snapshot, self._missed = self._last_done(kept), kept.missed
        except Exception as error:
            if self.on_error == "raise":
                raise
            kept, says = None, f"the checkpoint is left out, a new history begins: {type(error).__name__}: {error}"
        if says:
            warn(says)
        self._num_restored = self.history.seen
        return kept

    def _last_done(self, known: Resumed) -> int | None:
        """The step of the last snapshot of which something is left: its report, or its file."""
        last = known.last_snapshot
        is_spooled = self._spool is not None and last is not None and snapshot_path(self._spool, last).exists()
        return last if is_spooled else known.last_report

    def _make_folder(self, folder: Path) -> None:
        """Make the folder for snapshots; if that fails, a warning comes with the first snapshot."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            if self.on_error == "raise":
                raise

    def _say_later(self, folder: Path, step: int) -> None:
        """Say that there are snapshots of an earlier run, or of steps that are trained again."""
        later = [each for each in spooled_steps(folder) if each > step]
        if later:
            warn(
                f"spool: {folder} has snapshots of steps {later[0]} to {later[-1]}, but training starts at step "
                f"{step}; they are replaced when it gets there. Use a new folder for a new run"
            )

    def _check_model(self) -> None:
        """Raise an error for unknown models and misspelt patterns before training starts."""
        found = find_layers(self.model, split=self.split)
        select_layers(found, self.layers)
        names = [layer.name for layer in found]
        logged_layers(names, names, self.log_every_layer)
        drawn_layers(names, names, self.figures)

    def _is_new(self, step: int) -> bool:
        return self._last_snapshot is None or step > self._last_snapshot

    def _say_forked(self) -> None:
        """Say once in a forked process that the monitor does nothing there."""
        if self._is_forked:
            self._is_forked = False
            warn(
                f"this monitor belongs to process {self._process}; in this process, which was forked from it, it does "
                "nothing. Create a monitor in the process that trains"
            )

    def _wait_for_first(self) -> None:
        with self._lock:
            first = [] if self.history.seen > self._num_restored else self._engine.futures(1)
            what = self._pending_text()
        wait_for(first, self.timeout, what=what)  # meanwhile other threads may call the monitor
        with self._lock:
            self._collect()

    def _snapshot(self, step: int, timeout: float | None = None) -> None:
        """Copy the weights and submit them; with a timeout, first wait so long for pending results."""
        if timeout is not None:
            self._collect(self._engine.pending, timeout)
        elif self._waiting.is_on and self._engine.pending:
            self._waiting.wait(self._engine.futures(self._engine.pending))
        self._collect()
        self._publisher.update(self._last_step)
        if self._closed or not self._is_new(step):  # on_result closed the monitor, or took this snapshot
            return
        if not self._engine.make_room():
            self._miss(step, "skipped")
            return
        layers = self._find_layers()
        if all(layer.spec is None for layer in layers):
            self._warn_empty(layers)
            return
        if not self._engine.fits(layers):  # the first snapshot, or layers were initialised late or replaced
            self._collect(self._engine.pending, self.timeout if timeout is None else 0.0)
            if self._engine.under_way:
                _log.warning("the layers have changed: %s", _dropped(self._engine.under_way))
            self._engine.renew(layers, low_priority=not self._waiting.is_on)
            analysed = [layer.name for layer in layers if layer.spec is not None]
            self._publisher.choose_layers([layer.name for layer in layers], analysed)
        if not self._engine.is_affordable():
            self._miss(step, "over_budget")
            return
        self._missed = self._missed.made_up(step)
        self._engine.take(layers, step, self._missed)
        self._last_snapshot = step
        if self.executor == "sync":
            self._collect()
            self._publisher.update(self._last_step)

    def _collect(self, wait_for_first: int = 0, timeout: float = 0.0) -> None:
        """Publish finished snapshots in order; before that, wait for the first pending ones."""
        if wait_for_first:
            wait_for(self._engine.futures(wait_for_first), timeout, what=self._pending_text())
        under_way, self._under_way = self._under_way, None
        for _ in chain(under_way or (), self._pieces()):
            pass

    def _pending_text(self) -> str:
        """Which snapshots are waited for, and how to wait less."""
        done = "results" if self._spool is None else "files"
        return f"the {done} of {_steps_text(self._engine.under_way)} ({_SHORTER})"

    def _collect_some(self) -> None:
        """Publish finished snapshots for a short time; later calls continue, so that no step takes long."""
        start = time.perf_counter()
        seconds = max(PIECE_SECONDS, PIECE_SHARE * (start - self._last_piece))
        under_way, self._under_way = self._under_way or self._pieces(), None  # a piece may call the monitor
        for _ in under_way:
            self._last_piece = time.perf_counter()
            if self._last_piece - start >= seconds:
                self._under_way = under_way
                return

    def _pieces(self) -> Iterator[None]:
        """Read results and publish them, in pieces."""
        for found in self._engine.collect():
            yield
            if found is not None:
                pending, report = found
                lag = (self._last_step or 0) - pending.step
                yield from self._publisher.publish(
                    report, lag_steps=lag, missed=pending.missed, wall_time=pending.wall_time
                )
        if self._engine.problem and not self._warned_unwritten:
            self._warned_unwritten = True
            self._say_unwritten(self._engine.problem)
        if self._engine.broken:
            raise RuntimeError(self._engine.broken)

    def _say_unwritten(self, problem: str) -> None:
        """Say once that a snapshot could not be written."""
        text = f"spool: a snapshot was not written into {self._spool}: {problem}"
        if self.on_error == "raise":
            raise OSError(text)
        warn(f"{text}; training continues, and later ones are tried. status().failed counts those that fail")

    def _safely(self, action: Callable[[], None]) -> None:
        """Run an action; an error ends the monitoring, not the training."""
        start = time.perf_counter()
        try:
            if not self._closed:
                action()
        except Exception as error:
            self._end()
            if self.on_error == "raise":
                raise
            warn(f"monitoring has ended, training continues: {type(error).__name__}: {error}")
            _log.debug("monitoring has ended", exc_info=True)
        finally:
            self._hook_seconds += time.perf_counter() - start

    def _miss(self, step: int, reason: Literal["skipped", "over_budget"]) -> None:
        """Count a missed snapshot; say once that many are missed."""
        self._missed = self._missed.at(step, reason)
        if not self._warned_missed and self._missed.are_many(self._num_taken):
            self._warned_missed = True
            _log.warning("step %s: %s", step, self._missed.message(self._num_taken))

    @property
    def _num_taken(self) -> int:
        """Snapshots taken so far, those of the checkpoint included."""
        return self.history.seen + self._engine.spooled + self._engine.pending

    def _say_missed(self) -> None:
        """Say at the end how many snapshots were missed."""
        if self._missed.total:
            level = logging.WARNING if self._missed.are_many(self._num_taken) else logging.INFO
            _log.log(level, "%s", self._missed.message(self._num_taken))

    def _say_back(self) -> None:
        """Say once that the steps are counted anew, as in a loop that counts those of each epoch."""
        if not self._warned_back and self._fell_from > 1 and not self.steps_are_estimated:
            self._warned_back = True
            warn(
                f"step: went back from {self._fell_from} to 1; there is no snapshot until it is larger than "
                f"{self._last_snapshot}. Count the optimizer steps since the start of training, not of the epoch"
            )

    def _say_verdict(self) -> None:
        """Say at the end why training should end, or how near the rules were; nothing of a signal of the user's."""
        verdict = self.published.verdicts.get(VERDICT, {})
        if not self.published.reports:
            _log.info("EarlyStopping did not end this training. No results came in.")
        elif "scores" in verdict and self.should_stop:
            _log.info("%s", self.stop_reason)
        elif "scores" in verdict:
            _log.info("EarlyStopping did not end this training. %s", progress_message(verdict))

    def _warn_empty(self, layers: Sequence[Layer]) -> None:
        if not self._warned_empty and not any(layer.is_late for layer in layers):
            self._warned_empty = True
            found = "; ".join(f"{layer.name}: {layer.reason}" for layer in layers) or "no layer holds weights"
            warn(f"nothing to analyse in this model ({found})")


def _say_forgotten(steps: Sequence[int], owner: int) -> None:
    """Say what is lost if a monitor is deleted, or the program ends, without ``finish`` or ``close``.

    Args:
        steps: of the pending snapshots.
        owner: the process of the monitor; a forked one says nothing.
    """
    if steps and os.getpid() == owner:
        _log.warning("neither finish() nor close() was called: %s", _dropped(steps))


def _dropped(steps: Sequence[int]) -> str:
    """Which results are dropped.

    Example:
        >>> _dropped([0]), _dropped([10, 20])
        ('the results of step 0 are dropped', 'the results of steps 10 and 20 are dropped')
    """
    return f"the results of {_steps_text(steps)} are dropped"


def _steps_text(steps: Sequence[int]) -> str:
    """Steps in words.

    Example:
        >>> _steps_text([0]), _steps_text([10, 20]), _steps_text([10, 20, 30])
        ('step 0', 'steps 10 and 20', '3 steps from 10 to 30')
    """
    if len(steps) > 2:
        return f"{len(steps)} steps from {steps[0]} to {steps[-1]}"
    return f"step{'s' if len(steps) > 1 else ''} {' and '.join(map(str, steps))}"
