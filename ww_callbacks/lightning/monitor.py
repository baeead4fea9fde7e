"""The Lightning callback that monitors spectra: results go to the loggers and the metrics of the Trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ww_callbacks.checks import check_flag, check_path, warn
from ww_callbacks.lightning.base import Callback, Trainer, say
from ww_callbacks.lightning.distributed import TrainerMonitor, ranks_of, unsupported
from ww_callbacks.lightning.first_check import anybody_checks, checkpoint_checks_batches, scheduler_checks_steps
from ww_callbacks.lightning.loggers import is_tensorboard
from ww_callbacks.lightning.steps import TrainerSteps
from ww_callbacks.monitor import Monitor, Published, crosses
from ww_callbacks.monitor.options import Options
from ww_callbacks.monitor.resuming import step_of
from ww_callbacks.monitor.schedule import schedule
from ww_callbacks.outputs.jsonl import FILE_NAME
from ww_callbacks.report import History
from ww_callbacks.signals.rates import LEARNING_RATE
from ww_callbacks.signals.signal import Signal, check_signal

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule


@dataclass(kw_only=True, eq=False)
class SpectralMonitor(Options, Callback):
    """Monitors the spectra of a model's weights during training.

    A snapshot of the weights is taken at the start of training (the baseline), whenever ``trainer.global_step``
    reaches or passes a multiple of ``every_n_steps``, and at the end. A worker process analyses it; the results go to
    all loggers of the trainer at the step they belong to, in order. TensorBoard gets them through the logger's own
    writer. The means are in ``trainer.callback_metrics`` ("ww/alpha" and so on), which changes at snapshot steps
    and at the end of training only, so ``EarlyStopping(monitor="ww/alpha", mode="min")`` and
    ``ModelCheckpoint(monitor="ww/alpha")`` work. If a callback monitors such a key, its first check waits for the
    first result. A mean that has no value any more is NaN if layers failed, and is removed otherwise.

    With manual optimization, ``global_step`` grows by one for each optimizer that steps, so by two per batch of a GAN.
    The loggers get the results at the number of batches, as all that Lightning logs. If ``global_step`` stays 0
    although the weights change, batches are counted as steps.

    With several ranks, the first one monitors the weights. At each snapshot step it sends what is published to the
    others by one broadcast, so that all ranks have the same ``callback_metrics`` and :attr:`published` at each step.
    All ranks need the same list of callbacks. With ``ModelParallelStrategy`` (FSDP2, tensor parallelism) all ranks
    gather each layer when it is copied, one at a time, and only the first rank keeps it. ``FSDPStrategy`` (FSDP1) and
    DeepSpeed's ZeRO stage 3 are not supported: the callback issues a warning, and training continues.

    Args:
        every_n_steps: optimizer steps between snapshots; 200 if neither this nor ``every_n_epochs`` is given.
        every_n_epochs: epochs between snapshots, instead of steps.
        prog_bar: show ``ww/alpha`` in the progress bar of the trainer.
        prefix: what the names of the metrics begin with. Two monitors in one list need two prefixes.
        log_dir: TensorBoard folder; not used if the trainer has a TensorBoard logger.
        jsonl: JSON lines file for all results, or True for ``ww_history.jsonl`` in the trainer's log directory.

    All other arguments are those of :class:`ww_callbacks.monitor.options.Options`.

    Raises:
        TypeError: an argument has the wrong type.
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
        self._distributed: TrainerMonitor | None = None
        self._passed_on: Published | None = None
        self._signals: dict[str, tuple[Signal, bool | None]] = {}
        self._is_watching = False
        self._awaits_first = False
        self._steps, self._logger_steps = TrainerSteps(), dict[int, int]()
        self._restored: Any = {}  # checked by the monitor

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the current or last training, on the first rank only."""
        return self._distributed.monitor if self._distributed is not None else None

    @property
    def published(self) -> Published:
        """Metrics and verdicts as of the last snapshot step, the same on every rank."""
        return self._distributed.published if self._distributed is not None else Published()

    @property
    def history(self) -> History:
        """The reports of the current or last training, empty before the first; on the first rank only."""
        return self.monitor.history if self.monitor is not None else History()

    def step_of(self, trainer: Trainer) -> int:
        """Finished steps of a training: ``trainer.global_step``, or batches if the Trainer does not count."""
        return self._steps.now(trainer)

    def first_step(self, trainer: Trainer, pl_module: LightningModule) -> int:
        """The step at which a training begins, for callbacks earlier in the list: in their ``on_train_start``."""
        self._steps.begin(trainer, pl_module)
        return self.step_of(trainer)

    def attach(self, name: str, signal: Signal, *, acts: bool | None = None) -> None:
        """Let a signal judge the history after each report, in this training and later ones.

        Call it on every rank, in ``setup``. The verdict is then in ``published.verdicts``, on every rank.

        Args:
            name: of the verdict.
            signal: judges the history.
            acts: whether training acts on the verdict, see :meth:`ww_callbacks.Monitor.attach`.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: another signal has that name, or with ``spool`` there are no results.
        """
        check_signal(name, signal, acts)
        self.check_results(name)
        if name in self._signals and self._signals[name][0] != signal:
            raise ValueError(f"name: {name!r} is attached already, choose another name")
        self._signals[name] = signal, acts
        if self.monitor is not None and self._is_watching:
            self.monitor.attach(name, signal, acts=acts)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the baseline."""
        if trainer.fast_dev_run or trainer.barebones:
            return
        if reason := unsupported(trainer.strategy):
            if trainer.is_global_zero:
                warn(f"no spectra in this training: {reason}")
            return
        self._warn_shared_prefix(trainer)
        self._awaits_first = anybody_checks(trainer, self.prefix)
        jsonl = self._jsonl_path(trainer)  # a collective call
        step = self.first_step(trainer, pl_module)
        self._logger_steps = {step: self._steps.of_loggers(trainer)}
        self._distributed = TrainerMonitor(
            pl_module,
            ranks=ranks_of(trainer),
            trainer=trainer,
            signals=self._signals,
            state=self._state_at(step),
            logger_steps=self._logger_steps,
            **self.as_arguments()
            | {"log_dir": None if any(map(is_tensorboard, trainer.loggers)) else self.log_dir, "jsonl": jsonl},
        )
        self._is_watching, self._restored = True, {}
        self._distributed.start(step)
        self._record_rate(trainer)
        self._pass_on(trainer)
        if scheduler_checks_steps(trainer, self.prefix):
            self._wait_for_first(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a snapshot if one is due, and publish results that have come in."""
        if (watching := self._watching) is None:
            return
        self._steps.look(trainer, pl_module)
        step = self.step_of(trainer)
        if watching.monitor is not None and watching.monitor.is_due(step):  # on the first rank
            self._prepare(trainer)
        watching.step(step)
        self._pass_on(trainer)
        if self._awaits_first and checkpoint_checks_batches(trainer, self.prefix):
            self._wait_for_first(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the first result, because callbacks check their metric during validation."""
        if not trainer.sanity_checking:
            self._wait_for_first(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a snapshot if the schedule counts epochs; callbacks check their metric after this."""
        if (watching := self._watching) is None:
            return
        epoch = trainer.current_epoch + 1
        if self.every_n_epochs is not None and crosses(epoch - 1, epoch, self.every_n_epochs):
            self._prepare(trainer)
            watching.snapshot(self.step_of(trainer))
            self._pass_on(trainer)
        self._wait_for_first(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the last snapshot and wait for late results, before loggers and checkpoints finish."""
        if (watching := self._watching) is not None:
            self._prepare(trainer)
            watching.finish(self.step_of(trainer))
            self._pass_on(trainer)
            self._is_watching = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop at once."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop if training has ended in another way."""
        if stage == "fit":
            self._stop()

    @property
    def state_key(self) -> str:
        """Distinguishes several monitors in one list of callbacks, by schedule, layers and prefix."""
        schedule = {"every_n_steps": self.every_n_steps, "every_n_epochs": self.every_n_epochs}
        return f"{type(self).__qualname__}{schedule | {'layers': self.layers, 'prefix': self.prefix}}"

    def state_dict(self) -> dict[str, Any]:
        """The state needed to resume from a checkpoint, as plain values; on the first rank."""
        return self.monitor.state_dict() if self.monitor is not None else self._restored

    def load_state_dict(self, state_dict: Any) -> None:
        """Resume from a checkpoint: with its history, from its last snapshot."""
        self._restored = state_dict

    def __getstate__(self) -> dict[str, Any]:
        """Launchers and tuners copy the callbacks before training; copies do not share the monitor."""
        return self.__dict__ | {"_distributed": None, "_passed_on": None, "_is_watching": False}

    @property
    def _watching(self) -> TrainerMonitor | None:
        """The monitor of the current training; None before and after it."""
        return self._distributed if self._is_watching else None

    def _state_at(self, step: int) -> Mapping[str, Any]:
        """The state to resume from at this step: that of a checkpoint, or of a training that ended at the same step."""
        previous = self.monitor.state_dict() if self.monitor is not None else {}
        state = self._restored or (previous if previous.get("step") == step > 0 else {})
        return state if step_of(state) <= step else {}  # a later state belongs to another training

    def _stop(self) -> None:
        self._is_watching = False
        if self._distributed is not None:
            self._distributed.close()

    def _pass_on(self, trainer: Trainer) -> None:
        """Pass the published metrics on to the trainer, if they have changed."""
        published = self.published
        if published is self._passed_on:
            return
        gone = self._passed_on.metrics.keys() - published.metrics.keys() if self._passed_on is not None else ()
        self._passed_on = published
        for key in gone:
            trainer.callback_metrics.pop(key, None)
            trainer.progress_bar_metrics.pop(key, None)
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in published.metrics.items()})
        if self.prog_bar and self.alpha_key in published.metrics:
            trainer.progress_bar_metrics[self.alpha_key] = published.metrics[self.alpha_key]

    def _prepare(self, trainer: Trainer) -> None:
        """Note what belongs to a snapshot of now, if this step has none: step of the loggers and learning rate."""
        step = self.step_of(trainer)
        if self.monitor is not None and self.monitor.last_snapshot != step:
            self._logger_steps[step] = self._steps.of_loggers(trainer)
            self._record_rate(trainer)

    def _record_rate(self, trainer: Trainer) -> None:
        """Record the largest learning rate, for the rules that have to know it."""
        rates = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if self.monitor is not None and rates:
            self.monitor.record(LEARNING_RATE, max(rates), self.step_of(trainer))

    def _wait_for_first(self, trainer: Trainer) -> None:
        """Wait once, and only if a callback or scheduler would fail without a first result."""
        if not self._awaits_first or (watching := self._watching) is None:
            return
        self._awaits_first = False
        if watching.monitor is not None and not watching.metrics:
            say(trainer, f"A callback monitors a {self.prefix}/ metric: its first check waits for the first result.")
        watching.wait_for_first()
        self._pass_on(trainer)

    def _warn_shared_prefix(self, trainer: Trainer) -> None:
        """Warn, at the second monitor with the same prefix, that they overwrite each other's metrics."""
        same = [each for each in trainer.callbacks if isinstance(each, SpectralMonitor) and each.prefix == self.prefix]
        if len(same) > 1 and same[1] is self and trainer.is_global_zero:
            warn(
                f"prefix: {len(same)} monitors write metrics named {self.prefix}/…, of which only the latest are kept; "
                'give one of them another prefix, such as prefix="ww2"'
            )

    def _check_places(self) -> None:
        check_path("log_dir", self.log_dir)
        check_path("jsonl", self.jsonl, or_bool=True)

    def _jsonl_path(self, trainer: Trainer) -> str | os.PathLike[str] | None:
        if self.jsonl is True:
            return os.path.join(trainer.log_dir or trainer.default_root_dir, FILE_NAME)
        return self.jsonl or None


def monitor_of(trainer: Trainer, asking: str, source: SpectralMonitor | None = None) -> SpectralMonitor:
    """The SpectralMonitor among the callbacks of a trainer, at any position.

    Args:
        trainer: with the callbacks.
        asking: name of the callback that needs it.
        source: the one to use; None for the first.

    Raises:
        ValueError: there is none, or ``source`` is not there.
    """
    monitors = [callback for callback in trainer.callbacks if isinstance(callback, SpectralMonitor)]
    if source is not None and source not in monitors:
        raise ValueError("source: this SpectralMonitor is not among the callbacks of the Trainer, add it")
    if not monitors:
        raise ValueError(f"{asking} needs a SpectralMonitor among the callbacks of the Trainer, there is none")
    return source or monitors[0]


def check_source(source: object) -> None:
    """Check that a source is None or a SpectralMonitor of Lightning.

    Raises:
        TypeError: it has another type.
    """
    if not isinstance(source, SpectralMonitor | None):
        raise TypeError(f"source: expected a SpectralMonitor of ww_callbacks.lightning or None, got {source!r}")
