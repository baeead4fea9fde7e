"""The callback for the Trainer of Hugging Face Transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ww_callbacks.checks import check_flag
from ww_callbacks.monitor import Monitor, Published
from ww_callbacks.monitor.options import Options
from ww_callbacks.report import History, Report
from ww_callbacks.report.keys import ALPHA, aggregates
from ww_callbacks.signals.rates import LEARNING_RATE
from ww_callbacks.signals.stop import AUTO, VERDICT, EarlyStopping
from ww_callbacks.torch.distributed import DistributedMonitor

if TYPE_CHECKING:
    TrainerCallback = object  # transformers need not be installed to check types
else:
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError(
            "ww_callbacks.huggingface needs transformers: pip install ww_callbacks[huggingface]"
        ) from error


@dataclass(kw_only=True, eq=False)
class SpectralMonitor(Options, TrainerCallback):
    """Monitors the spectra of a model's weights in a ``transformers.Trainer``.

    A snapshot of the weights is taken at the start, whenever ``state.global_step`` reaches or passes a multiple of
    ``every_n_steps``, and at the end; a worker process analyses it. The results go to ``log_dir``, ``jsonl`` and
    ``on_result``, and their means to ``trainer.state.log_history``, at the step they belong to. Every evaluation has
    them as ``eval_ww/…``, so ``metric_for_best_model="eval_ww/alpha"`` works, and so does an ``EarlyStoppingCallback``
    after this one in the list; the first evaluation waits for the first result.

    With several ranks, the first one monitors the weights and informs the others by one broadcast per snapshot step.

    Args:
        stop: the :class:`ww_callbacks.EarlyStopping` that ends training, or True for the default rules.
        prog_bar: show ``ww/alpha`` in the logs printed beside the progress bar.

    All other arguments are those of :class:`ww_callbacks.monitor.options.Options`.

    Raises:
        TypeError: an argument is unknown or has the wrong type.
        ValueError: an argument has a value that is not allowed; at the start of training: a pattern matches no layer.

    Example:
        >>> monitor = SpectralMonitor(every_n_steps=50)  # Trainer(model, args, callbacks=[monitor], …)
        >>> len(monitor.history)
        0
    """

    stop: bool | EarlyStopping = False
    prog_bar: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.stop, EarlyStopping):
            check_flag("stop", self.stop)
        check_flag("prog_bar", self.prog_bar)
        self._monitor: DistributedMonitor | None = None
        self._signal: EarlyStopping | None = None

    @property
    def history(self) -> History:
        """The reports of the current or last training, on the first rank; empty before."""
        return self._monitor.history if self._monitor is not None else History()

    @property
    def published(self) -> Published:
        """Metrics and verdicts as of the last snapshot step, the same on every rank."""
        return self._monitor.published if self._monitor is not None else Published()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Take the baseline."""
        if self._monitor is not None:  # there is no hook for a training that failed
            self._monitor.close()
        outputs = [] if self.spool else [*self.outputs, _LogHistory(state)]
        self._monitor = DistributedMonitor(model, **self.as_arguments() | {"outputs": outputs})
        self._signal = EarlyStopping() if self.stop is True else self.stop or None
        if self._signal is not None:
            self._signal.awaits_metric = self._signal.and_monitor == AUTO and args.eval_strategy != "no"
            self._monitor.attach(VERDICT, self._signal)
        self._monitor.start(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Take a snapshot if one is due; end training if ``stop`` is set."""
        if self._monitor is not None:
            self._record_rate(self._monitor.monitor, state.global_step, optimizer)
            self._monitor.step(state.global_step)
            control.should_training_stop |= self.stop is not False and self._monitor.should_stop

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Add alpha to the logs, for callbacks after this one such as the progress bar."""
        if logs is not None and self.prog_bar and ALPHA in self.published.metrics:
            logs[ALPHA] = self.published.metrics[ALPHA]

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Add the metrics, so that they can select the best model."""
        if self._monitor is not None and metrics is not None:
            self._record_metrics(self._monitor.monitor, metrics, state.global_step)
            self._monitor.wait_for_first()
            metrics.update({f"eval_{key}": value for key, value in self.published.metrics.items()})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the last snapshot and wait for late results."""
        if self._monitor is not None:
            self._monitor.finish(state.global_step)

    def _record_rate(self, monitor: Monitor | None, step: int, optimizer: Any) -> None:
        """Record the largest learning rate at snapshots, for the rules that have to know it."""
        rates = [float(group["lr"]) for group in getattr(optimizer, "param_groups", ())]
        if monitor is not None and rates and monitor.is_due(step):
            monitor.record(LEARNING_RATE, max(rates), step)

    def _record_metrics(self, monitor: Monitor | None, metrics: Mapping[str, Any], step: int) -> None:
        """Record the metrics that the rules ask for."""
        if self._signal is None:
            return
        self._signal.awaits_metric = False
        for name in self._signal.metric_names:
            if monitor is not None and name in metrics:
                monitor.record(name, float(metrics[name]), step)


class _LogHistory:
    """Writes the means into the log history of the Trainer."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        values = {key: value for key, value in aggregates(metrics).items() if math.isfinite(value)}
        self._state.log_history.append(values | {"step": report.step})  # which is saved as JSON

    def close(self) -> None:
        pass
