"""Per-layer learning rates or weight decays in your own training loop."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from ww_callbacks.checks import warn
from ww_callbacks.monitor import Monitor, Published
from ww_callbacks.printable import quoted_list
from ww_callbacks.report.columns import is_count
from ww_callbacks.signals.learning_rate import LayerRatios, Quantity, ratios_at
from ww_callbacks.signals.mappings import MappingName
from ww_callbacks.signals.ramp import Ramp
from ww_callbacks.signals.taking_part import announce
from ww_callbacks.torch.layers import holds, owners_of, parameter_ratios, partners_of
from ww_callbacks.torch.update import check_optimizer, scale_updates
from ww_callbacks.weights import find_layers

_log = logging.getLogger("ww_callbacks")

KEYS = {"learning_rate": "lr", "weight_decay": "weight_decay"}


class Source(Protocol):
    """A publisher of verdicts: a Monitor or a SpectralMonitor."""

    @property
    def published(self) -> Published:
        """The metrics and verdicts as of the last snapshot step."""


class Layerwise:
    """The current ratios of one or several optimizers, created by :func:`layerwise`.

    Args:
        model: the module that the optimizers train.
        optimizers: the optimizers; at least one must hold a layer of ``model``.
        signal: the signal, already attached to the source.
        source: the publisher of its verdict.
        ramp: the ramp of the ratios.
        clock: returns the number of finished optimizer steps; None to count the steps of the optimizers.
        say: says once which layers take part; None to say nothing, as on other ranks than the first.

    Raises:
        TypeError: an optimizer is not one of torch.
        ValueError: no optimizer holds a layer of the model, or one takes one step for all parameters (LBFGS).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        signal: LayerRatios,
        source: Source,
        ramp: Ramp,
        clock: Callable[[], int] | None = None,
        *,
        say: Callable[[str], object] | None = _log.info,
    ) -> None:
        self._signal, self._source, self._ramp = signal, source, ramp
        self._owners = owners_of(model)
        self._steps = 0
        self._say = say
        self._clock = clock if clock is not None else lambda: self._steps
        self._known: tuple[dict[str, float], dict[Tensor, float]] = ({}, {})
        for each in optimizers:
            check_optimizer(each)
        _check_held(model, optimizers, signal)
        self._ends = [scale_updates(each, KEYS[signal.quantity], self._parameter_ratios) for each in optimizers]
        self._ends += [each.register_step_post_hook(self._count).remove for each in optimizers]

    def ratios(self) -> dict[str, float]:
        """The ratios of the next update by layer name; a layer without an entry has ratio 1."""
        verdicts = self._source.published.verdicts
        if self._say is not None and announce(self._signal.quantity, verdicts.get(self._signal.name, {}), self._say):
            self._say = None
        return ratios_at(self._clock(), self._signal, self._ramp, verdicts)

    def remove(self) -> None:
        """Remove the hooks: every layer is at the common rate again."""
        ends, self._ends = self._ends, []
        for end in reversed(ends):
            end()

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint: the current ratios and their targets."""
        self.ratios()
        return {"ramp": self._ramp.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint; one of another form is left out with a warning."""
        try:
            steps, ramp = state["steps"], state["ramp"]
            if not is_count(steps):
                raise ValueError(f"state: steps: expected a whole number, got {steps!r}")
            self._ramp.load_state_dict(ramp)
            self._steps = steps
        except (KeyError, TypeError, ValueError) as error:
            warn(f"{error}; the state is left out, all ratios begin at 1")

    def __enter__(self) -> Layerwise:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _count(self, *_: Any) -> None:
        self._steps += 1

    def _parameter_ratios(self) -> Mapping[Tensor, float]:
        ratios = self.ratios()
        if ratios != self._known[0]:
            self._known = ratios, parameter_ratios(self._owners, ratios)
        return self._known[1]


def layerwise(  # noqa: D417 - documented by RatioOptions
    optimizer: Optimizer,
    *,
    source: Monitor,
    mapping: MappingName = "linear",
    low: float = 0.5,
    high: float = 1.5,
    blocks: bool = False,
    shrink: bool = True,
    ramp_steps: int = 50,
    until: int | None = None,
    layers: Sequence[str] | None = None,
    quantity: Quantity = "learning_rate",
) -> Layerwise:
    """Make an optimizer update each layer at its own learning rate, from the alphas of a monitor.

    The rates are changed during the update only: ``optimizer.param_groups``, schedulers, checkpoints and the closure
    see the common rate. The ratio is 1 until the first result after a step, and for layers that do not take part.

    Args:
        optimizer: an optimizer of torch other than LBFGS.
        source: the monitor of the model; call this before its first result, best before ``start``.
        ramp_steps: number of optimizer steps over which the ratios move to new values.

    All other arguments are those of :class:`~ww_callbacks.signals.learning_rate.RatioOptions`.

    Returns:
        A handle with ``remove()``, and ``state_dict()`` for checkpoints; also a context manager.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed, a pattern matches no layer, or the optimizer holds no
            layer of the monitor's model.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import ww_callbacks as ww
        >>> model = nn.Sequential(*(nn.Linear(60, 60) for _ in range(4)))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> monitor = ww.Monitor(model, every_n_steps=5)
        >>> # These layers are random: without shrink=False their ratios are 1.
        >>> handle = layerwise(optimizer, source=monitor, shrink=False)
        >>> with monitor:
        ...     for step in range(1, 16):
        ...         model(torch.randn(8, 60)).square().mean().backward()
        ...         optimizer.step()
        ...         monitor.step(step)
        >>> sorted(monitor.lr_ratios().values()), optimizer.param_groups[0]["lr"]
        ([0.5, 1.0, 1.0, 1.5], 0.1)
    """
    model = source.model
    if not isinstance(model, nn.Module):
        raise TypeError(f"source: expected a monitor of a torch module, it watches a {type(model).__name__}")
    signal = LayerRatios(
        mapping=mapping,
        low=low,
        high=high,
        blocks=blocks,
        shrink=shrink,
        layers=layers,
        until=until,
        quantity=quantity,
        partners=partners_of(model),
    )
    handle = Layerwise(model, [optimizer], signal, source, Ramp(ramp_steps))
    source.attach(signal.name, signal, acts=True)
    return handle


def _check_held(model: nn.Module, optimizers: Sequence[Optimizer], signal: LayerRatios) -> None:
    """Check that the optimizers train the layers that take part; warn if some are missing."""
    held = {parameter for each in optimizers for group in each.param_groups for parameter in group["params"]}
    owners = owners_of(model)
    found = [layer for layer in find_layers(model) if layer.spec is not None and layer.role != "adapter"]
    names = signal.choose([layer.name for layer in found])
    missing = [name for name in names if not any(owners[p] == holds(owners, name) for p in owners if p in held)]
    if names and len(missing) == len(names):
        raise ValueError(
            f"optimizer: it holds none of the layers {quoted_list(names)}; give the optimizer of this model"
        )
    if missing:
        warnings.warn(
            f"ww_callbacks: the layers {quoted_list(missing)} are in no optimizer here, their ratios change nothing; "
            'leave them out with layers=["!name"] so that they do not count',
            RuntimeWarning,
            stacklevel=4,
        )
