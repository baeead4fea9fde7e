"""The callback for the Trainer of Hugging Face Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ww_callbacks.checks import check_flag, warn
from ww_callbacks.console import above_bars
from ww_callbacks.huggingface.base import TrainerCallback, log
from ww_callbacks.huggingface.caller import Caller
from ww_callbacks.huggingface.reporting import Logging, LogHistory, has_ended, reported
from ww_callbacks.huggingface.resuming import checkpoint_folder, read_state, write_state
from ww_callbacks.monitor import Monitor, Output, Published
from ww_callbacks.monitor.options import Options
from ww_callbacks.report import History
from ww_callbacks.signals.rates import LEARNING_RATE
from ww_callbacks.signals.stop import AUTO, VERDICT, EarlyStopping
from ww_callbacks.torch.distributed import DistributedMonitor


@dataclass(kw_only=True, eq=False)
class SpectralMonitor(Options, TrainerCallback):
    """Monitors the spectra of a model's weights in a ``transformers.Trainer``.

    A snapshot of the weights is taken at the start, whenever ``state.global_step`` reaches or passes a multiple of
    ``every_n_steps``, and at the end; a worker process analyses it. The results go to ``log_dir``, ``jsonl`` and
    ``on_result``, to the integrations of ``report_to``, and their means to ``trainer.state.log_history``, at the step
    they belong to. Every evaluation has them as ``eval_ww/…``, so ``metric_for_best_model="eval_ww/alpha"`` works, and
    so does an ``EarlyStoppingCallback`` after this one in the list; the first evaluation waits for the first result.

    Checkpoints have the state of the monitor in ``ww_state.json``: a run resumed from one goes on with its history.

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
        self._is_finished = self._has_said = False

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
        caller = Caller.now()
        outputs = self._outputs(caller, Logging(args, state, control, model))
        self._monitor = DistributedMonitor(model, **self.as_arguments() | {"outputs": outputs})
        self._is_finished = self._has_said = False
        self._signal = EarlyStopping() if self.stop is True else self.stop or None
        if self._signal is not None:
            self._signal.awaits_metric = self._signal.and_monitor == AUTO and args.eval_strategy != "no"
            self._monitor.attach(VERDICT, self._signal)
        if state.global_step and self._monitor.monitor is not None:
            self._resume(
                self._monitor.monitor, caller.checkpoint or checkpoint_folder(args.output_dir, state.global_step)
            )
        self._monitor.start(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Take a snapshot if one is due; end training if ``stop`` is set."""
        if self._monitor is not None:
            self._record_rate(self._monitor.monitor, state.global_step, optimizer)
            self._monitor.step(state.global_step)
            if self.stop is not False and self._monitor.should_stop:
                self._say_stop(state, self._monitor.stop_reason)
                control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Add alpha to the logs, for callbacks after this one such as the progress bar; end with the last logs."""
        if logs is not None and self.prog_bar and self.alpha_key in self.published.metrics:
            logs[self.alpha_key] = self.published.metrics[self.alpha_key]
        if has_ended(state.log_history):  # the integrations of report_to end before on_train_end of this callback
            self._finish(state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Add the metrics, so that they can select the best model."""
        if self._monitor is not None and metrics is not None:
            self._record_metrics(self._monitor.monitor, metrics, state.global_step)
            self._monitor.wait_for_first()
            metrics.update({f"eval_{key}": value for key, value in self.published.metrics.items()})

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the state needed to resume into the checkpoint."""
        if self._monitor is None or self._monitor.monitor is None:
            return
        try:
            write_state(checkpoint_folder(args.output_dir, state.global_step), self._monitor.state_dict())
        except (OSError, TypeError) as error:
            if self.on_error == "raise":
                raise
            warn(f"the checkpoint of step {state.global_step} has no spectra, training continues: {error}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the last snapshot and wait for late results, if the last logs did not."""
        self._finish(state.global_step)

    def _say_stop(self, state: Any, reason: str) -> None:
        """Say why training ends: once, on the first rank."""
        if not self._has_said and state.is_world_process_zero:
            with above_bars(log):
                log.warning("%s ends the training. %s", type(self).__name__, reason)
        self._has_said = True

    def _finish(self, step: int) -> None:
        if self._monitor is not None and not self._is_finished:
            self._is_finished = True  # with several ranks, each end is one broadcast
            self._monitor.finish(step)

    def _outputs(self, caller: Caller, logging: Logging) -> list[Output]:
        """Where the results go; those of the Trainer are for the first rank."""
        if self.spool or not logging.state.is_world_process_zero:
            return []
        own = LogHistory(logging.state, self.prefix)
        return [*self.outputs, own, *reported(caller.callbacks, logging, self.prefix)]

    def _resume(self, monitor: Monitor, folder: Path) -> None:
        """Go on with the history and the verdicts of a checkpoint."""
        try:
            state = read_state(folder)
        except (OSError, ValueError) as error:
            if self.on_error == "raise":
                raise
            warn(f"the spectra in the checkpoint {folder} cannot be read, a new history begins: {error}")
        else:
            monitor.load_state_dict(state)

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
