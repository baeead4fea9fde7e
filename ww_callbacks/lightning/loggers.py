"""The loggers of a Trainer as outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ww_callbacks.lightning.base import Trainer
from ww_callbacks.monitor import Output
from ww_callbacks.outputs.tensorboard import SummaryWriterOutput
from ww_callbacks.report import Report


class LoggerOutput:
    """Any logger except TensorBoard: logs all metrics of a snapshot in one call.

    Args:
        logger: of a Trainer.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Log one snapshot at its step."""
        values = dict(metrics)
        if _is_a(self._logger, "NeptuneLogger"):  # it ignores the step, and results are late
            values["ww/step"] = float(report.step or 0)
        self._logger.log_metrics(values, step=report.step)

    def close(self) -> None:
        """Do nothing: the trainer closes the logger."""


def logger_outputs(trainer: Trainer) -> list[Output]:
    """One output per logger of the trainer."""
    return [
        SummaryWriterOutput(logger.experiment) if is_tensorboard(logger) else LoggerOutput(logger)
        for logger in trainer.loggers
    ]


def is_tensorboard(logger: object) -> bool:
    """Whether it is the TensorBoardLogger of either distribution."""
    return _is_a(logger, "TensorBoardLogger")


def _is_a(logger: object, name: str) -> bool:
    """Compares class names, because there are two distributions of Lightning."""
    return any(cls.__name__ == name for cls in type(logger).__mro__)
