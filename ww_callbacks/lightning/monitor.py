"""The callback that watches: snapshots by step or epoch, results to the loggers and the metrics of the Trainer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ww_callbacks.checks import check_flag, check_path, warn
from ww_callbacks.lightning.base import Callback, Trainer, log
from ww_callbacks.lightning.distributed import ranks_of, unsupported
from ww_callbacks.lightning.first_check import anybody_checks, checkpoint_checks_batches, scheduler_checks_steps
from ww_callbacks.lightning.loggers import is_tensorboard, logger_outputs
from ww_callbacks.monitor import Monitor, Published, crosses
from ww_callbacks.monitor.options import Options
from ww_callbacks.monitor.schedule import schedule
from ww_callbacks.outputs.jsonl import FILE_NAME
from ww_callbacks.report import History
from ww_callbacks.report.keys import ALPHA
from ww_callbacks.signals.signal import Signal
from ww_callbacks.torch.ranks import on_first_rank

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule


@dataclass(kw_only=True, eq=False)
class SpectralMonitor(Options, Callback):
    """Watches the spectra of a model's weights while it trains.

    A snapshot of the weights is taken at the start of training (the baseline), whenever ``trainer.global_step``
    reaches or passes a multiple of ``every_n_steps``, and at the end. A worker process analyses it; the results go to
    all loggers of the trainer at the step they belong to, in order. TensorBoard gets them through the logger's own
    writer. The means are in ``trainer.callback_metrics`` ("ww/alpha" and so on), which changes at snapshot steps
    and at the end of training only, so ``EarlyStopping(monitor="ww/alpha", mode="min")`` and
    ``ModelCheckpoint(monitor="ww/alpha")`` work. Where a callback monitors such a key, its first check waits for
    the first result.

    With several ranks the first one watches, and tells the others what is published by one broadcast at each snapshot
    step, so that all ranks have the same ``callback_metrics`` and :attr:`published` at each step. All ranks need the
    same list of callbacks. Under ``ModelParallelStrategy`` (FSDP2, tensor parallelism) all ranks gather each layer
    when it is copied, one at a time, and only the first one keeps it. ``FSDPStrategy`` (FSDP1) and DeepSpeed's ZeRO
    stage 3 are not supported: a warning says so, and training continues.

    Attributes:
        monitor: the monitor of the current or last training, on the first rank only.
        published: metrics and verdicts of attached signals as of the last snapshot step, the same on every rank.

    Args:
        every_n_steps: optimizer steps between snapshots; 200 if neither this nor ``every_n_epochs`` is given.
        every_n_epochs: epochs between snapshots, instead of steps.
        prog_bar: show ``ww/alpha`` in the progress bar of the trainer.
        log_dir: TensorBoard folder; not used if the trainer has a TensorBoard logger.
        jsonl: JSON lines file for all results, or True for ``ww_history.jsonl`` in the trainer's log directory.

    All other arguments are those of :class:`ww_callbacks.monitor.options.Options`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a value that is not allowed; at the start of training: a pattern matches no layer.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[SpectralMonitor(every_n_steps=50)], logger=False)
    """

    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    prog_bar: bool = False

    def __post_init__(self) -> None:
        self.every_n_steps = schedule(self.every_n_steps, self.every_n_epochs)
        super().__post_init__()
        check_flag("prog_bar", self.prog_bar)
        self.monitor: Monitor | None = None
        self.published = Published()
        self._signals: dict[str, Signal] = {}
        self._is_watching = False
        self._awaits_first = False
        self._step = 0
        self._late_error: Exception | None = None
        self._restored: Mapping[str, Any] = {}

    @property
    def history(self) -> History:
        """The reports of the current or last training, empty before the first; on the first rank only."""
        return self.monitor.history if self.monitor is not None else History()

    def attach(self, name: str, signal: Signal) -> None:
        """Let a signal judge the history after each report, in this training and later ones.

        Call it on every rank, in ``setup``. The verdict is then found, on every rank, in ``published.verdicts``.

        Args:
            name: of the verdict.
            signal: what judges.

        Raises:
            ValueError: another signal has that name.
        """
        if self._signals.setdefault(name, signal) != signal:
            raise ValueError(f"name: {name!r} is attached already, choose another name")
        if self.monitor is not None and self._is_watching:
            self.monitor.attach(name, signal)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the baseline."""
        if trainer.fast_dev_run or trainer.barebones:
            return
        if reason := unsupported(trainer.strategy):
            warn(f"no spectra in this training: {reason}")
            return
        self._is_watching, self.published = True, Published()
        self._awaits_first = anybody_checks(trainer)
        self._step = trainer.global_step
        jsonl = self._jsonl_path(trainer)  # which asks the other ranks
        self._round(trainer, lambda: self._start(trainer, pl_module, jsonl))
        if scheduler_checks_steps(trainer):
            self._wait_for_first(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a snapshot where one is due, and pass on what has come in."""
        if not self._is_watching:
            return
        last, self._step = self._step, trainer.global_step
        every = self.every_n_steps
        if every is not None and crosses(last, self._step, every):
            self._round(trainer, lambda: self._watched.step(self._step))
        elif self.monitor is not None:
            self._step_alone(trainer, self.monitor)
        if self._awaits_first and checkpoint_checks_batches(trainer):
            self._wait_for_first(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Callbacks check their metric in validation: the first result must be there."""
        if self._is_watching and not trainer.sanity_checking:
            self._wait_for_first(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a snapshot where epochs are counted; callbacks check their metric after this."""
        if not self._is_watching:
            return
        epoch = trainer.current_epoch + 1
        if self.every_n_epochs is not None and crosses(epoch - 1, epoch, self.every_n_epochs):
            self._round(trainer, lambda: self._watched.snapshot(trainer.global_step))
        self._wait_for_first(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the last snapshot and wait for late results, before loggers and checkpoints finish."""
        if self._is_watching:
            self._round(trainer, lambda: self._watched.finish(trainer.global_step))
            self._is_watching = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop at once."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop, should training have ended in another way."""
        if stage == "fit":
            self._stop()

    @property
    def state_key(self) -> str:
        """Several monitors may stand in a list, each with a schedule or layers of its own."""
        schedule = {"every_n_steps": self.every_n_steps, "every_n_epochs": self.every_n_epochs}
        return f"{type(self).__qualname__}{schedule | {'layers': self.layers}}"

    def state_dict(self) -> dict[str, Any]:
        """What a training needs that goes on from a checkpoint, on the first rank; plain values."""
        return self.monitor.state_dict() if self.monitor is not None else dict(self._restored)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: with its history, from its last snapshot."""
        self._restored = state_dict

    def __getstate__(self) -> dict[str, Any]:
        """A Trainer is pickled or copied before training by launchers and tuners: leave the process behind."""
        return self.__dict__ | {"monitor": None, "_is_watching": False, "_late_error": None}

    @property
    def _watched(self) -> Monitor:
        """The monitor, on the first rank while training continues."""
        assert self.monitor is not None
        return self.monitor

    def _start(self, trainer: Trainer, pl_module: LightningModule, jsonl: str | os.PathLike[str] | None) -> None:
        previous, step = self.monitor, trainer.global_step
        self.monitor = Monitor(
            pl_module,
            **self.as_arguments()
            | {
                "outputs": [*self.outputs, *logger_outputs(trainer)],
                "log_dir": None if any(map(is_tensorboard, trainer.loggers)) else self.log_dir,
                "jsonl": jsonl,
            },
        )
        for name, signal in self._signals.items():
            self.monitor.attach(name, signal)
        goes_on = previous is not None and (state := previous.state_dict()).get("step") == step > 0
        restored, self._restored = self._restored or (state if goes_on else {}), {}
        if restored.get("step", 0) <= step:  # else it was loaded for something else than this training
            self.monitor.load_state_dict(restored)
        self.monitor.start(step)

    def _stop(self) -> None:
        self._is_watching = False
        if self.monitor is not None:
            self.monitor.close()

    def _round(self, trainer: Trainer, action: Callable[[], object]) -> None:
        """Let the first rank act, after which every rank knows what is published: one broadcast."""
        published = on_first_rank(ranks_of(trainer), trainer.lightning_module, lambda: self._act(action))
        if published is not None:
            self.published = published
            trainer.callback_metrics.update({key: torch.tensor(value) for key, value in published.metrics.items()})
            if self.prog_bar and ALPHA in published.metrics:
                trainer.progress_bar_metrics[ALPHA] = published.metrics[ALPHA]

    def _act(self, action: Callable[[], object]) -> Published | None:
        """What has been published by the action, None where it is the same as before."""
        error, self._late_error = self._late_error, None
        if error is not None:
            raise error
        action()
        published = self._watched.published
        return None if published is self.published else published

    def _step_alone(self, trainer: Trainer, monitor: Monitor) -> None:
        """Between snapshots the other ranks take no part: they learn of an error with the next snapshot."""
        try:
            monitor.step(self._step)
        except Exception as error:
            if trainer.world_size == 1:
                raise
            self._late_error = error

    def _wait_for_first(self, trainer: Trainer) -> None:
        """Once, and only where somebody's check would fail without a first result."""
        if not self._awaits_first:
            return
        self._awaits_first = False
        if not self.published.metrics:
            self._round(trainer, self._await_first)

    def _await_first(self) -> None:
        log.info("A callback monitors a ww/ metric: its first check waits for the first result.")
        self._watched.wait_for_first()

    def _check_places(self) -> None:
        check_path("log_dir", self.log_dir)
        check_path("jsonl", self.jsonl, or_bool=True)

    def _jsonl_path(self, trainer: Trainer) -> str | os.PathLike[str] | None:
        if self.jsonl is True:
            return os.path.join(trainer.log_dir or trainer.default_root_dir, FILE_NAME)
        return self.jsonl or None


def monitor_of(trainer: Trainer, asking: str, source: SpectralMonitor | None = None) -> SpectralMonitor:
    """The SpectralMonitor among the callbacks of a trainer, wherever it stands.

    Args:
        trainer: whose callbacks are looked through.
        asking: name of the callback that needs it.
        source: the one to take; None for the first.

    Raises:
        ValueError: there is none, or ``source`` is not there.
    """
    monitors = [callback for callback in trainer.callbacks if isinstance(callback, SpectralMonitor)]
    if source is not None and source not in monitors:
        raise ValueError("source: this SpectralMonitor is not among the callbacks of the Trainer, add it")
    if not monitors:
        raise ValueError(f"{asking} needs a SpectralMonitor among the callbacks of the Trainer, there is none")
    return source or monitors[0]
