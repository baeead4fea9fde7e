"""TensorBoard: one event per snapshot for the scalars, one for the panels."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from ww_callbacks.outputs.background_file import AppendedFile
from ww_callbacks.outputs.panels import Panels
from ww_callbacks.outputs.tensorboard_protos import MISSING, layout_summary, panel_summary, scalar_summary
from ww_callbacks.report import Report

_numbers = itertools.count()


class TensorBoardOutput:
    """Writes all metrics of a snapshot as one Event, at the step and wall time of the snapshot.

    TensorBoard drops points whose step is not larger than an earlier one of the same tag, so reports must come
    in the order of their steps. A thread writes each event at once, so that a live reader sees it.

    Args:
        log_dir: folder of a run. No other program may write event files into it at the same time:
            TensorBoard's Python reader follows only one live file per folder.

    Raises:
        ImportError: tensorboard is not installed.
        OSError: the folder is not writable.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise ImportError(MISSING) from error
        os.makedirs(log_dir, exist_ok=True)
        # tensorboard's EventFileWriter loads TensorFlow if it is installed, and waits for the disk.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._event = Event
        self._file = AppendedFile(os.path.join(log_dir, name), "xb")
        self._records = RecordWriter(self._file)
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._append(Event(wall_time=time.time(), summary=layout_summary()))

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Write one snapshot."""
        self._append(self._event(wall_time=wall_time, step=report.step or 0, summary=scalar_summary(metrics)))

    def show(self, panels: Panels) -> None:
        """Write figures, texts and histograms."""
        self._append(self._event(wall_time=panels.wall_time, step=panels.step, summary=panel_summary(panels)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, event: Any) -> None:
        self._records.write(event.SerializeToString())


class SummaryWriterOutput:
    """Writes into the event file of a ``SummaryWriter`` that the caller owns.

    Args:
        writer: of torch.utils.tensorboard. Of other writers (tensorboardX) only ``add_scalar`` is used, so they show
            no panels.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._is_torch = type(writer).__module__.startswith("torch.")
        self._has_layout = False

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Write one snapshot."""
        step = report.step or 0
        if self._is_torch:
            self._writer._get_file_writer().add_summary(scalar_summary(metrics), step, wall_time)
        else:
            for tag, value in metrics.items():
                self._writer.add_scalar(tag, value, step, wall_time)
        self._writer.flush()

    def show(self, panels: Panels) -> None:
        """Write figures, texts and histograms, if the writer is torch's."""
        if not self._is_torch:
            return
        file = self._writer._get_file_writer()
        if not self._has_layout:
            self._has_layout = True
            file.add_summary(layout_summary(), 0, panels.wall_time)
        file.add_summary(panel_summary(panels), panels.step, panels.wall_time)
        self._writer.flush()

    def close(self) -> None:
        """Do nothing: the caller closes the writer."""
