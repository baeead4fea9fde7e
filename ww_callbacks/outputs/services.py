"""Outputs for W&B, trackio and MLflow: metrics, findings as alerts or tags, pictures and histograms.

A separate thread calls each service, so training never waits for a network. If a call fails, the output is dropped
with a warning.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.outputs.alerts import Alert, Alerts
from ww_callbacks.outputs.background import Background
from ww_callbacks.outputs.panels import Panels
from ww_callbacks.outputs.steps import NO_STEPS, Steps, step_at
from ww_callbacks.report import Finding, Histogram, Report
from ww_callbacks.report.keys import AGGREGATES, PREFIX

STEP = f"{AGGREGATES}step"
"""Name of the number of optimizer steps in the rows of W&B."""

CLOSE_TIMEOUT = 10.0
"""Seconds that the end of a run waits for a service."""

LONGEST_TAG_VALUE = 5000
"""Maximal number of characters of a tag of MLflow, in all its versions."""


class WandbOutput:
    """Sends a run to W&B: metrics, findings as alerts, pictures and histograms as media.

    Results are late, so they have a separate step, ``ww/step``, against which W&B plots them.

    Args:
        run: of ``wandb.init``; None for ``wandb.run``.
        step: name of the number of optimizer steps in each row.
        with_metrics: whether to send the metrics. False if something else does.
        prefix: of the metrics, as that of the monitor.
        steps: step of a snapshot → step in the run, where they differ.

    Raises:
        ImportError: wandb is not installed.
        ValueError: there is no run.
    """

    def __init__(
        self,
        run: Any = None,
        *,
        step: str = STEP,
        with_metrics: bool = True,
        prefix: str = PREFIX,
        steps: Steps = NO_STEPS,
    ) -> None:
        import wandb

        self._run: Any = wandb.run if run is None else run
        if self._run is None:
            raise ValueError("run: there is no run of W&B, call wandb.init() before")
        self._step, self._with_metrics, self._steps = step, with_metrics, steps
        self._alerts, self._background = Alerts(), Background("W&B", "W&B", timeout=CLOSE_TIMEOUT)
        if step == STEP:
            for names in (f"{prefix}/*", f"{prefix}_layer/*"):
                self._run.define_metric(names, step_metric=step)

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Send the metrics of one snapshot."""
        if self._with_metrics:
            step = step_at(report.step or 0, self._steps)
            self._background.add(partial(self._run.log, {**metrics, self._step: step}))

    def show(self, panels: Panels) -> None:
        """Send pictures and histograms."""
        self._background.add(partial(self._log_media, panels))

    def write_finding(self, finding: Finding, wall_time: float) -> None:
        """Send an alert if the finding is new."""
        if (alert := self._alerts.of(finding)) is not None:
            self._background.add(partial(self._run.alert, alert.title, alert.text, level=alert.level))

    def close(self) -> None:
        """Wait until everything is sent, for a few seconds at most; the run stays open."""
        self._background.close()

    def _log_media(self, panels: Panels) -> None:
        import wandb
        from PIL import Image

        media: dict[str, Any] = {
            tag: wandb.Image(Image.open(io.BytesIO(png)), file_type="png") for tag, png in panels.images.items()
        }
        for tag, histogram in panels.histograms.items():
            media[tag] = wandb.Histogram(np_histogram=(np.array(histogram.counts), edges_of(histogram)))
        if media:
            self._run.log({**media, self._step: step_at(panels.step, self._steps)})


class TrackioOutput:
    """Sends a run to trackio: metrics, and findings as alerts.

    Args:
        run: of ``trackio.init``; None for the current one.
        with_metrics: whether to send the metrics. False if something else does.

    Raises:
        ImportError: trackio is not installed.
        ValueError: there is no run.
    """

    def __init__(self, run: Any = None, *, with_metrics: bool = True) -> None:
        from trackio import context_vars

        self._run: Any = context_vars.current_run.get() if run is None else run
        if self._run is None:
            raise ValueError("run: there is no run of trackio, call trackio.init() before")
        self._with_metrics = with_metrics
        self._alerts, self._background = Alerts(), Background("trackio", "trackio", timeout=CLOSE_TIMEOUT)

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Send the metrics of one snapshot."""
        if self._with_metrics:
            self._background.add(partial(self._run.log, dict(metrics), step=report.step or 0))

    def write_finding(self, finding: Finding, wall_time: float) -> None:
        """Send an alert if the finding is new."""
        if (alert := self._alerts.of(finding)) is not None:
            self._background.add(partial(self._alert, alert, finding.step))

    def close(self) -> None:
        """Wait until everything is passed on, for a few seconds at most; the run stays open."""
        self._background.close()

    def _alert(self, alert: Alert, step: int | None) -> None:
        from trackio import AlertLevel

        self._run.alert(alert.title, alert.text, level=AlertLevel[alert.level], step=step)


class MlflowOutput:
    """Sends a run to MLflow: metrics, findings as tags, pictures and tables as artifacts.

    The tag ``ww.finding.<kind>`` holds a line for each finding of this kind that is raised or withdrawn. The artifacts
    are in the folder ``ww``, by name and step. Both begin with another word if the monitor has another ``prefix``.

    Args:
        run_id: of the run; None for the active one.
        client: an ``MlflowClient``; None for one of the current tracking server.
        with_metrics: whether to send the metrics. False if something else does.
        prefix: of the metrics, as that of the monitor.
        steps: step of a snapshot → step in the run, where they differ.

    Raises:
        ImportError: mlflow is not installed.
        ValueError: there is no active run.
    """

    def __init__(
        self,
        run_id: str | None = None,
        client: Any = None,
        *,
        with_metrics: bool = True,
        prefix: str = PREFIX,
        steps: Steps = NO_STEPS,
    ) -> None:
        import mlflow

        if run_id is None:
            active = mlflow.active_run()
            if active is None:
                raise ValueError("run_id: there is no active run of MLflow, call mlflow.start_run() before")
            run_id = active.info.run_id
        self._run_id: str = run_id
        self._client = mlflow.MlflowClient() if client is None else client
        self._with_metrics, self._prefix, self._steps = with_metrics, prefix, steps
        self._lines: dict[str, list[str]] = {}
        self._background = Background("MLflow", "MLflow", timeout=CLOSE_TIMEOUT)

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Send the metrics of one snapshot."""
        if self._with_metrics:
            step = step_at(report.step or 0, self._steps)
            self._background.add(partial(self._log_metrics, dict(metrics), step, wall_time))

    def show(self, panels: Panels) -> None:
        """Send pictures and tables."""
        self._background.add(partial(self._log_files, panels))

    def write_finding(self, finding: Finding, wall_time: float) -> None:
        """Set the tag of the kind of the finding."""
        lines = self._lines.setdefault(finding.kind, [])
        lines.append(str(finding))
        self._background.add(
            partial(
                self._client.set_tag,
                self._run_id,
                f"{self._prefix}.finding.{finding.kind}",
                latest(lines, LONGEST_TAG_VALUE),
            )
        )

    def close(self) -> None:
        """Wait until everything is sent, for a few seconds at most; the run stays open."""
        self._background.close()

    def _log_metrics(self, metrics: Mapping[str, float], step: int, wall_time: float) -> None:
        from mlflow.entities import Metric

        time = int(1000 * wall_time)
        self._client.log_batch(self._run_id, [Metric(key, value, time, step) for key, value in metrics.items()])

    def _log_files(self, panels: Panels) -> None:
        step = step_at(panels.step, self._steps)
        files = {f"{tag}/step-{step:09d}.png": png for tag, png in panels.images.items()}
        files |= {f"{tag}/step-{step:09d}.md": text.encode() for tag, text in panels.texts.items()}
        if not files:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            self._client.log_artifacts(self._run_id, folder)


def edges_of(histogram: Histogram) -> NDArray[np.float64]:
    """The edges of the bins of a histogram.

    Example:
        >>> edges_of(Histogram(0.0, 1.0, (3, 4)))
        array([0. , 0.5, 1. ])
    """
    return np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)


def latest(lines: list[str], longest: int) -> str:
    r"""The last lines that fit, as one text.

    Args:
        lines: the oldest first.
        longest: maximal number of characters.

    Example:
        >>> latest(["one", "two", "three"], 10)
        'two\nthree'
    """
    kept = len(lines)
    room = longest + 1
    while kept and (room := room - len(lines[kept - 1]) - 1) >= 0:
        kept -= 1
    return "\n".join(lines[kept:])
