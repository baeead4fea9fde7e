"""The callback that steers: each layer at its own learning rate or weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ww_callbacks.checks import check_flag
from ww_callbacks.lightning.base import Callback, Trainer
from ww_callbacks.lightning.monitor import SpectralMonitor, monitor_of
from ww_callbacks.signals.learning_rate import LayerRatios, Quantity
from ww_callbacks.signals.mappings import MappingName
from ww_callbacks.signals.ramp import Ramp
from ww_callbacks.torch.layers import partners_of
from ww_callbacks.torch.layerwise import Layerwise

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule


class LayerwiseLearningRate(Callback):
    """Gives each layer a learning rate of its own, from the alphas that a :class:`SpectralMonitor` finds.

    By default it only tells: ``ww_layer/lr_ratio/…`` in the loggers is by what the rate of a layer would be
    multiplied. With ``apply=True`` the optimizers update each layer at its own rate. The rate is changed around the
    update only, so ``training_step``, schedulers, LearningRateMonitor and checkpoints see the common rate. Ratios
    change at snapshot steps only and are the same on every rank.

    Args:
        apply: whether the ratios are used, not only logged.
        mapping: "linear", "sqrt", "log2", "rank" or "sigmoid", see :func:`~ww_callbacks.signals.mappings.ratios_of`.
        low: smallest ratio.
        high: largest ratio.
        blocks: whether all layers of a block get one ratio, from their mean alpha.
        ramp_steps: optimizer steps over which ratios move to new values.
        until: from this optimizer step on all ratios are 1; None for never.
        layers: patterns of the layers that take part, ``"!pattern"`` to leave out; None for all but the first, the last
            and embeddings.
        quantity: "learning_rate" or "weight_decay".
        source: the monitor to follow; None for the first SpectralMonitor among the callbacks.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a value that is not allowed; at the start of training: no SpectralMonitor, or not
            ``source``, is among the callbacks, no optimizer holds a layer of the model, or a pattern matches no layer.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> callbacks = [SpectralMonitor(every_n_steps=50), LayerwiseLearningRate(apply=True)]
        >>> trainer = Trainer(callbacks=callbacks, logger=False)
    """

    def __init__(
        self,
        *,
        apply: bool = False,
        mapping: MappingName = "linear",
        low: float = 0.5,
        high: float = 1.5,
        blocks: bool = False,
        ramp_steps: int = 50,
        until: int | None = None,
        layers: list[str] | None = None,
        quantity: Quantity = "learning_rate",
        source: SpectralMonitor | None = None,
    ) -> None:
        check_flag("apply", apply)
        if not isinstance(source, SpectralMonitor | None):
            raise TypeError(f"source: expected a SpectralMonitor of ww_callbacks.lightning or None, got {source!r}")
        self._apply, self._source = apply, source
        self._partners: dict[str, str] = {}  # known once the model is complete
        self._signal = LayerRatios(
            mapping=mapping,
            low=low,
            high=high,
            blocks=blocks,
            layers=layers,
            until=until,
            quantity=quantity,
            partners=self._partners,
        )
        self._ramp = Ramp(ramp_steps)
        self._layerwise: Layerwise | None = None

    @property
    def state_key(self) -> str:
        """One callback each for the learning rate and the weight decay may stand in a list."""
        return f"{type(self).__qualname__}{{'quantity': {self._signal.quantity!r}}}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the monitor, wherever it stands in the list."""
        if stage == "fit" and not (trainer.fast_dev_run or trainer.barebones):
            self._monitor(trainer).attach(self._signal.name, self._signal)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take hold of the optimizers."""
        if trainer.fast_dev_run or trainer.barebones:
            return
        self._partners.update(partners_of(pl_module))
        if self._apply:
            self._layerwise = Layerwise(
                pl_module,
                trainer.optimizers,
                self._signal,
                self._monitor(trainer),
                self._ramp,
                lambda: int(trainer.global_step),
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the optimizers."""
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the optimizers."""
        self._end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers, should training have ended in another way."""
        self._end()

    def state_dict(self) -> dict[str, Any]:
        """The ratios at work and where they are to go, as plain values."""
        if self._layerwise is not None:
            self._layerwise.ratios()  # takes notice of the latest result
        return self._ramp.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with the ratios of the checkpoint until the first result."""
        self._ramp.load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        """A Trainer is copied before training by launchers and tuners: leave the optimizers behind."""
        return self.__dict__ | {"_layerwise": None}

    def _end(self) -> None:
        layerwise, self._layerwise = self._layerwise, None
        if layerwise is not None:
            layerwise.remove()

    def _monitor(self, trainer: Trainer) -> SpectralMonitor:
        return monitor_of(trainer, type(self).__name__, self._source)
