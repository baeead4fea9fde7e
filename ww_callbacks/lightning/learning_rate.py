"""The callback that sets per-layer learning rates or weight decays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ww_callbacks.checks import arguments_of, check_flag, warn
from ww_callbacks.lightning.base import Callback, Trainer, say
from ww_callbacks.lightning.monitor import SpectralMonitor, check_source, monitor_of
from ww_callbacks.signals.learning_rate import LayerRatios, LayerwiseOptions, RatioOptions
from ww_callbacks.signals.ramp import Ramp
from ww_callbacks.torch.layers import partners_of
from ww_callbacks.torch.layerwise import Layerwise

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule


@dataclass(kw_only=True, eq=False)
class LayerwiseLearningRate(LayerwiseOptions, Callback):
    """Sets per-layer learning rates from the alphas of a :class:`SpectralMonitor`.

    By default the ratios are only logged, as ``ww_layer/lr_ratio/…``. With ``apply=True`` the optimizers update each
    layer at its own rate. The rate is changed during the update only, so ``training_step``, schedulers,
    LearningRateMonitor and checkpoints see the common rate. The log says once which layers take part and why the others
    keep ratio 1; if no ratio can change, a warning says so. Ratios change at snapshot steps only and are the same on
    every rank.

    Args:
        source: the monitor to follow; None for the first SpectralMonitor among the callbacks.
        verbose: log which layers take part, with Lightning's logger.

    All other arguments are those of :class:`ww_callbacks.signals.learning_rate.LayerwiseOptions`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed; at the start of training: no SpectralMonitor, or not
            ``source``, is among the callbacks, no optimizer holds a layer of the model, or a pattern matches no layer.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> callbacks = [SpectralMonitor(every_n_steps=50), LayerwiseLearningRate(apply=True)]
        >>> trainer = Trainer(callbacks=callbacks, logger=False)
    """

    source: SpectralMonitor | None = None
    verbose: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self.source)
        check_flag("verbose", self.verbose)
        self._partners: dict[str, str] = {}  # known once the model is complete
        self._signal = LayerRatios(**arguments_of(self, RatioOptions), partners=self._partners)
        self._ramp = Ramp(self.ramp_steps)
        self._layerwise: Layerwise | None = None

    @property
    def state_key(self) -> str:
        """Separate states for the callbacks of the learning rate and of the weight decay, and of several monitors."""
        source = self.source and self.source.state_key
        return f"{type(self).__qualname__}{ {'quantity': self.quantity, 'source': source} }"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the monitor, at any position in the list."""
        if stage == "fit" and not (trainer.fast_dev_run or trainer.barebones):
            self._monitor(trainer).attach(self._signal.name, self._signal, acts=self.apply)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hook into the optimizers."""
        if trainer.fast_dev_run or trainer.barebones:
            return
        self._partners.update(partners_of(pl_module))
        if self.apply:
            self._layerwise = Layerwise(
                pl_module,
                trainer.optimizers,
                self._signal,
                self._monitor(trainer),
                self._ramp,
                lambda: self._monitor(trainer).step_of(trainer),
                say=partial(say, trainer) if self.verbose and trainer.is_global_zero else None,
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hooks from the optimizers."""
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks from the optimizers."""
        self._end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks if training ended in another way."""
        self._end()

    def state_dict(self) -> dict[str, Any]:
        """The current ratios and their targets, as plain values."""
        if self._layerwise is not None:
            self._layerwise.ratios()  # takes notice of the latest result
        return self._ramp.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue with the ratios of the checkpoint until the first result; a state of another form is left out."""
        try:
            self._ramp.load_state_dict(state_dict)
        except ValueError as error:
            warn(f"{error}; it is left out, all ratios begin at 1")

    def __getstate__(self) -> dict[str, Any]:
        """Launchers and tuners copy a Trainer before training: the hooks are left out."""
        return self.__dict__ | {"_layerwise": None}

    def _end(self) -> None:
        layerwise, self._layerwise = self._layerwise, None
        if layerwise is not None:
            layerwise.remove()

    def _monitor(self, trainer: Trainer) -> SpectralMonitor:
        return monitor_of(trainer, type(self).__name__, self.source)
