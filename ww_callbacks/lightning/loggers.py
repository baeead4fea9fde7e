"""The loggers of a Trainer as outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ww_callbacks.lightning.base import Trainer
from ww_callbacks.monitor import Output
from ww_callbacks.outputs.panels import Panels
from ww_callbacks.outputs.services import MlflowOutput, WandbOutput
from ww_callbacks.outputs.tensorboard import SummaryWriterOutput
from ww_callbacks.report import Report


class LoggerOutput:
    """Any logger except TensorBoard: logs all metrics of a snapshot in one call.

    Args:
        logger: of a Trainer.
        steps: step of a snapshot → step of the loggers, where they differ.
    """

    def __init__(self, logger: Any, steps: Mapping[int, int] | None = None) -> None:
        self._logger, self._steps = logger, steps or {}

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Log one snapshot at its step."""
        values, step = dict(metrics), report.step or 0
        if _is_a(self._logger, "NeptuneLogger"):  # it ignores the step, and results are late
            values["ww/step"] = float(step)
        self._logger.log_metrics(values, step=self._steps.get(step, step))

    def close(self) -> None:
        """Do nothing: the trainer closes the logger."""


class TensorBoardLoggerOutput(SummaryWriterOutput):
    """The logger for TensorBoard: its own writer, which also shows figures.

    Args:
        logger: of a Trainer.
        steps: step of a snapshot → step of the loggers, where they differ.
        prefix: of the metrics.
    """

    def __init__(self, logger: Any, steps: Mapping[int, int], prefix: str) -> None:
        super().__init__(logger.experiment, prefix)
        self._steps = steps

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Write one snapshot at its step."""
        step = report.step or 0
        super().write(replace(report, step=self._steps.get(step, step)), metrics, wall_time)

    def show(self, panels: Panels) -> None:
        """Show figures, texts and histograms at their step."""
        super().show(_at_logger_step(panels, self._steps))


class WandbLoggerOutput(WandbOutput):
    """The logger for W&B: alerts, pictures and histograms; :class:`LoggerOutput` logs the metrics.

    Args:
        logger: of a Trainer.
        steps: step of a snapshot → step of the loggers, where they differ.
        prefix: of the metrics.
    """

    def __init__(self, logger: Any, steps: Mapping[int, int], prefix: str) -> None:
        super().__init__(logger.experiment, step="trainer/global_step", with_metrics=False, prefix=prefix)
        self._steps = steps

    def show(self, panels: Panels) -> None:
        """Send pictures and histograms at their step."""
        super().show(_at_logger_step(panels, self._steps))


class MlflowLoggerOutput(MlflowOutput):
    """The logger for MLflow: tags, pictures and tables; :class:`LoggerOutput` logs the metrics.

    Args:
        logger: of a Trainer.
        steps: step of a snapshot → step of the loggers, where they differ.
        prefix: of the metrics.
    """

    def __init__(self, logger: Any, steps: Mapping[int, int], prefix: str) -> None:
        super().__init__(logger.run_id, logger.experiment, with_metrics=False, prefix=prefix)
        self._steps = steps

    def show(self, panels: Panels) -> None:
        """Send pictures and tables at their step."""
        super().show(_at_logger_step(panels, self._steps))


def logger_outputs(trainer: Trainer, steps: Mapping[int, int], prefix: str) -> list[Output]:
    """The outputs for the loggers of the trainer.

    Args:
        trainer: with the loggers.
        steps: step of a snapshot → step of the loggers, where they differ.
        prefix: of the metrics.
    """
    return [output for logger in trainer.loggers for output in _outputs_of(logger, steps, prefix)]


def _outputs_of(logger: Any, steps: Mapping[int, int], prefix: str) -> list[Output]:
    if is_tensorboard(logger):
        return [TensorBoardLoggerOutput(logger, steps, prefix)]
    if _is_a(logger, "WandbLogger"):
        return [LoggerOutput(logger, steps), WandbLoggerOutput(logger, steps, prefix)]
    if _is_a(logger, "MLFlowLogger"):
        return [LoggerOutput(logger, steps), MlflowLoggerOutput(logger, steps, prefix)]
    return [LoggerOutput(logger, steps)]


def is_tensorboard(logger: object) -> bool:
    """Whether it is the TensorBoardLogger of either distribution."""
    return _is_a(logger, "TensorBoardLogger")


def _is_a(logger: object, name: str) -> bool:
    """Compares class names, because there are two distributions of Lightning."""
    return any(cls.__name__ == name for cls in type(logger).__mro__)


def _at_logger_step(panels: Panels, steps: Mapping[int, int]) -> Panels:
    return replace(panels, step=steps.get(panels.step, panels.step))
