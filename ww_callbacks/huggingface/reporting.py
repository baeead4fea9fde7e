"""Where a Trainer reports to, as outputs: its log history and the integrations of ``report_to``."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ww_callbacks.checks import warn
from ww_callbacks.huggingface.base import INTEGRATION_TO_CALLBACK
from ww_callbacks.monitor import Output
from ww_callbacks.outputs.services import MlflowOutput, TrackioOutput, WandbOutput
from ww_callbacks.outputs.tensorboard import writer_output
from ww_callbacks.report import Report
from ww_callbacks.report.keys import PREFIX, aggregates

COUNT_CALLS = frozenset({"dvclive"})
"""Integrations that take each call as one more step, and would be out of step with the Trainer."""

SERVICES: Mapping[str, Callable[[str], Output]] = {
    "mlflow": lambda prefix: MlflowOutput(with_metrics=False, prefix=prefix),
    "trackio": lambda prefix: TrackioOutput(with_metrics=False),
    "wandb": lambda prefix: WandbOutput(step="train/global_step", with_metrics=False, prefix=prefix),
}
"""Integrations that get the findings too, and pictures if they can."""


@dataclass(frozen=True, slots=True)
class Logging:
    """What the Trainer hands to the ``on_log`` of its callbacks."""

    args: Any
    state: Any
    control: Any
    model: Any


class LogHistory:
    """Writes the means into the log history of the Trainer.

    Args:
        state: of the Trainer.
        prefix: of the metrics.
    """

    def __init__(self, state: Any, prefix: str = PREFIX) -> None:
        self._state, self._prefix = state, prefix

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Add one entry; the summary of the training stays the last one."""
        means = aggregates(metrics, self._prefix)
        values = {key: value for key, value in means.items() if math.isfinite(value)}
        entries = self._state.log_history
        entries.insert(len(entries) - has_ended(entries), values | {"step": report.step})  # which is saved as JSON

    def close(self) -> None:
        """Do nothing."""


class ReportedLogs:
    """An integration of ``report_to``: it gets the metrics as it gets the logs of the Trainer, at their own step.

    Args:
        callback: the integration.
        logging: what it gets with the metrics.
    """

    def __init__(self, callback: Any, logging: Logging) -> None:
        self._callback, self._logging = callback, logging

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Log one snapshot.

        Raises:
            RuntimeError: the integration raises an error.
        """
        state = copy.copy(self._logging.state)
        state.global_step = report.step or 0
        args, control = self._logging.args, copy.copy(self._logging.control)
        try:
            self._callback.on_log(args, state, control, model=self._logging.model, logs=dict(metrics))
        except Exception as error:
            raise RuntimeError(f"{type(self._callback).__name__}: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Do nothing: the Trainer ends the integration."""


def reported(callbacks: Iterable[Any], logging: Logging, prefix: str = PREFIX) -> list[Output]:
    """The outputs for the integrations of ``report_to``. A run of a service that is not found is left out.

    Args:
        callbacks: all callbacks of the Trainer.
        logging: what they get with the metrics.
        prefix: of the metrics.
    """
    outputs: list[Output] = []
    for callback in callbacks:
        name = _integration_of(callback)
        writer = getattr(callback, "tb_writer", None) if name == "tensorboard" else None
        if writer is not None:
            outputs.append(writer_output(writer, prefix))
        elif name is not None and name not in COUNT_CALLS:
            outputs.append(ReportedLogs(callback, logging))
        if name is not None and name in SERVICES:
            try:
                outputs.append(SERVICES[name](prefix))
            except Exception as error:
                warn(f"report_to: findings are not sent to {name}: {error}")
    return outputs


def has_ended(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a log history ends with the summary that the Trainer logs when training ends.

    Example:
        >>> has_ended([{"loss": 2.0}]), has_ended([{"loss": 2.0}, {"train_runtime": 9.0, "total_flos": 1e9}])
        (False, True)
    """
    return bool(entries) and {"train_runtime", "total_flos"} <= entries[-1].keys()


def _integration_of(callback: Any) -> str | None:
    """Its name in ``report_to``; None for a callback that is none of them."""
    return next((name for name, cls in INTEGRATION_TO_CALLBACK.items() if isinstance(callback, cls)), None)
