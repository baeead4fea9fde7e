"""One monitor for all ranks of a training loop: Fabric, Accelerate, torch.distributed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from torch import nn

from ww_callbacks.checks import checked_step, warn
from ww_callbacks.engine import Status
from ww_callbacks.monitor import Monitor, Published, crosses
from ww_callbacks.monitor.options import Options
from ww_callbacks.report import History
from ww_callbacks.signals.signal import Signal, check_signal
from ww_callbacks.torch.ranks import LostRanksError, Ranks, on_first_rank

T = TypeVar("T")


@dataclass(kw_only=True, eq=False)
class DistributedMonitor(Options):
    """A :class:`ww_callbacks.Monitor` for a loop that runs on several ranks. The first rank monitors the weights.

    Every rank creates one and makes the same calls. At snapshot steps, one broadcast over torch's default process group
    sends what is published to all ranks; other steps send nothing. Sharded weights (DTensor: ``fully_shard``, tensor
    parallelism) are gathered by all ranks one layer at a time, and kept by the first rank only. With a single rank,
    with or without a process group, it works like :class:`ww_callbacks.Monitor`.

    Attributes:
        monitor: the monitor, on the first rank; None on the others.
        published: metrics and verdicts as of the last snapshot step, the same on every rank.

    Args:
        model: a torch module, wrapped (DistributedDataParallel, ``fabric.setup``, ``accelerator.prepare``) or not.
        ranks: the ranks that take part; by default those of torch's default process group.

    All other arguments are those of :class:`ww_callbacks.monitor.options.Options`.

    Raises:
        TypeError: an argument, or the model, has the wrong type.
        ValueError: an argument has a value that is not allowed, or a pattern matches no layer.

    Example:
        >>> model = nn.Linear(60, 60)
        >>> with DistributedMonitor(model, every_n_steps=10) as monitor:
        ...     for step in range(1, 21):
        ...         monitor.step(step)  # after the optimizer's
        >>> "ww/alpha" in monitor.metrics, monitor.should_stop
        (True, False)
    """

    model: nn.Module = field(kw_only=False, repr=False)
    ranks: Ranks = field(default_factory=Ranks.of_torch, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"model: expected a torch module, got {type(self.model).__name__}")
        self._last_step: int | None = None
        self._late_error: Exception | None = None
        self._is_lost = False
        self.published = Published()
        self.monitor: Monitor | None = None
        self._create()

    @property
    def metrics(self) -> Mapping[str, float]:
        """The latest ``ww/…`` metrics, as of the last snapshot step."""
        return self.published.metrics

    @property
    def history(self) -> History:
        """The reports so far, on the first rank; empty on the others."""
        return self.monitor.history if self.monitor is not None else History()

    @property
    def should_stop(self) -> bool:
        """Whether training should end, as of the last snapshot step.

        The rules are those of the :class:`ww_callbacks.EarlyStopping` attached as "stop", or the default rules: see
        :attr:`ww_callbacks.Monitor.should_stop`.
        """
        return self.published.should_stop if self.monitor is None else self.monitor.should_stop

    @property
    def stop_reason(self) -> str:
        """Why training should end, see :attr:`ww_callbacks.Monitor.stop_reason`; the same on every rank."""
        return self.published.stop_reason

    def status(self) -> Status:
        """The state of the monitor now, and what it cost so far, on the first rank; zeros on the others.

        See :meth:`ww_callbacks.Monitor.status`.
        """
        return self.monitor.status() if self.monitor is not None else Status()

    def record(self, name: str, value: float, step: int | None = None) -> None:
        """Record a measured value, see :meth:`ww_callbacks.Monitor.record`. That of the first rank counts.

        Args:
            name: of the metric, such as "val_loss".
            value: of the metric.
            step: finished optimizer steps when it was measured; None for that of the last call of :meth:`step`.
        """
        if self.monitor is not None:
            self.monitor.record(name, value, step)

    def attach(self, name: str, signal: Signal, *, acts: bool | None = None) -> None:
        """Let a signal judge the history after each report; call it on every rank, before :meth:`start`.

        Args:
            name: name of its verdict in ``published.verdicts``.
            signal: judges the history.
            acts: whether training acts on the verdict, see :meth:`ww_callbacks.Monitor.attach`.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: another signal has that name, or with ``spool`` there are no results.
        """
        check_signal(name, signal, acts)
        self.check_results(name)
        if self.monitor is not None:
            self.monitor.attach(name, signal, acts=acts)

    def start(self, step: int | None = None) -> None:
        """Start, with a first snapshot. Every rank calls it, or enters the context.

        Args:
            step: optimizer steps finished so far; None for those of the checkpoint, 0 without one.
        """
        if self._last_step is None:
            begun = self._together(lambda: self._begin(step))
            if begun is not None:
                self._last_step, self.published = begun

    def step(self, step: int) -> None:
        """Take a snapshot if one is due. Every rank calls it after each optimizer step, with the same number.

        Args:
            step: number of finished optimizer steps.
        """
        step = checked_step(step)
        last = self._last_step
        if last is None:
            self.start(step)
            return
        self._last_step = step
        if self.every_n_steps is not None and crosses(last, step, self.every_n_steps):
            self._round(lambda monitor: monitor.step(step))
        elif self.monitor is not None:
            self._between(self.monitor, step)

    def snapshot(self, step: int) -> None:
        """Take a snapshot now, whatever the schedule says. Every rank calls it.

        Args:
            step: number of finished optimizer steps.
        """
        self._round(lambda monitor: monitor.snapshot(step))

    def wait_for_first(self) -> None:
        """Wait until the first results are published, at most ``timeout`` seconds. Every rank calls it."""
        if not self.published.metrics:
            self._round(lambda monitor: monitor.wait_for_first())

    def finish(self, step: int | None = None) -> None:
        """Take a last snapshot, wait for all results, publish them and close. Every rank calls it.

        Args:
            step: number of finished optimizer steps; None for that of the last call of :meth:`step`.
        """
        self._round(lambda monitor: monitor.finish(step))

    def close(self) -> None:
        """Stop the worker at once; a rank may call it alone."""
        if self.monitor is not None:
            self.monitor.close()

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint, on the first rank; empty on the others."""
        return self.monitor.state_dict() if self.monitor is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint; call it on every rank before :meth:`start`.

        Args:
            state: of :meth:`state_dict`.
        """
        if self.monitor is not None:
            self.monitor.load_state_dict(state)

    def __enter__(self) -> DistributedMonitor:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()

    def _create(self) -> None:
        self._together(self._make)

    def _make(self) -> None:
        self.monitor = Monitor(self.model, **self.as_arguments())

    def _begin(self, step: int | None) -> tuple[int, Published]:
        assert self.monitor is not None
        self.monitor.start(step)
        return self.monitor.last_step or 0, self.monitor.published

    def _together(self, action: Callable[[], T]) -> T | None:
        """The result of an action of the first rank, on all ranks; None once the ranks have lost each other.

        Training finds out by itself at its next message, or needs none any more.
        """
        if self._is_lost:
            return None
        try:
            return on_first_rank(self.ranks, self.model, action)
        except LostRanksError as error:
            self._is_lost = True
            self.close()
            if self.on_error == "raise":
                raise
            warn(f"monitoring has ended, training continues: another rank cannot be reached: {error}")
            return None

    def _round(self, action: Callable[[Monitor], object]) -> None:
        published = self._together(lambda: self._act(action))
        if published is not None:
            self.published = published

    def _act(self, action: Callable[[Monitor], object]) -> Published | None:
        """What is published after the action; None if it has not changed."""
        assert self.monitor is not None
        error, self._late_error = self._late_error, None
        if error is not None:
            raise error
        action(self.monitor)
        return None if self.monitor.published is self.published else self.monitor.published

    def _between(self, monitor: Monitor, step: int) -> None:
        """Between snapshots only the first rank acts; the others learn of an error at the next snapshot."""
        try:
            monitor.step(step)
        except Exception as error:
            if self.ranks.size == 1:
                raise
            self._late_error = error
