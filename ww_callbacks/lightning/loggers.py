"""The loggers of a Trainer as outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ww_callbacks.lightning.base import Trainer
from ww_callbacks.monitor import Output
from ww_callbacks.outputs.services import MlflowOutput, WandbOutput
from ww_callbacks.outputs.steps import NO_STEPS, Steps, step_at
from ww_callbacks.outputs.tensorboard import writer_output
from ww_callbacks.report import Report


class LoggerOutput:
    """Any logger except TensorBoard: logs all metrics of a snapshot in one call.

    Args:
        logger: of a Trainer.
        steps: step of a snapshot → step of the loggers, where they differ.
    """

    def __init__(self, logger: Any, steps: Steps = NO_STEPS) -> None:
        self._logger, self._steps = logger, steps

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Log one snapshot at its step."""
        values, step = dict(metrics), report.step or 0
        if _is_a(self._logger, "NeptuneLogger"):  # it ignores the step, and results are late
            values["ww/step"] = float(step)
        self._logger.log_metrics(values, step=step_at(step, self._steps))

    def close(self) -> None:
        """Do nothing: the trainer closes the logger."""


def logger_outputs(trainer: Trainer, steps: Steps, prefix: str) -> list[Output]:
    """The outputs for the loggers of the trainer.

    Args:
        trainer: with the loggers.
        steps: step of a snapshot → step of the loggers, where they differ.
        prefix: of the metrics.
    """
    return [output for logger in trainer.loggers for output in _outputs_of(logger, steps, prefix)]


def _outputs_of(logger: Any, steps: Steps, prefix: str) -> list[Output]:
    """The outputs for one logger: its metrics, and findings and pictures if it takes them."""
    if is_tensorboard(logger):
        return [writer_output(logger.experiment, prefix, steps)]
    outputs: list[Output] = [LoggerOutput(logger, steps)]
    if _is_a(logger, "WandbLogger"):
        step = "trainer/global_step"
        outputs.append(WandbOutput(logger.experiment, step=step, with_metrics=False, prefix=prefix, steps=steps))
    elif _is_a(logger, "MLFlowLogger"):
        outputs.append(MlflowOutput(logger.run_id, logger.experiment, with_metrics=False, prefix=prefix, steps=steps))
    return outputs


def is_tensorboard(logger: object) -> bool:
    """Whether it is the TensorBoardLogger of either distribution."""
    return _is_a(logger, "TensorBoardLogger")


def _is_a(logger: object, name: str) -> bool:
    """Compares class names, because there are two distributions of Lightning."""
    return any(cls.__name__ == name for cls in type(logger).__mro__)
