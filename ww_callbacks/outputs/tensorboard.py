"""TensorBoard: one event per snapshot for the scalars and the report, others for signals, findings and panels."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

from ww_callbacks.outputs.background_file import AppendedFile
from ww_callbacks.outputs.charts import Chart, Charts
from ww_callbacks.outputs.output import Signals
from ww_callbacks.outputs.panels import Panels
from ww_callbacks.outputs.spectra_protos import finding_value, report_summary, signals_value, summary_of
from ww_callbacks.outputs.tensorboard_protos import layout_summary, panel_summary, scalar_summary
from ww_callbacks.report import Finding, Report
from ww_callbacks.report.keys import PREFIX

_numbers = itertools.count()


class TensorBoardOutput:
    """Writes all metrics of a snapshot, and its spectra, as one Event, at the step and wall time of the snapshot.

    TensorBoard drops points whose step is not larger than an earlier one of the same tag, so reports must come
    in the order of their steps. A thread encodes and writes each event at once, so that a live reader sees it and
    training does not wait. If the file is removed, a new one is begun.

    Args:
        log_dir: folder of a run. No other program may write event files into it at the same time:
            TensorBoard's Python reader follows only one live file per folder.
        prefix: of the metrics.

    Raises:
        ImportError: tensorboard is not installed.
        OSError: the folder is not writable.
    """

    def __init__(self, log_dir: str | os.PathLike[str], prefix: str = PREFIX) -> None:
        scalar_summary({})  # raises an ImportError here rather than in the thread
        charts, now = Charts(prefix), time.time()
        self._charts, self._prefix = charts, prefix
        header: list[Callable[[], bytes]] = [
            partial(_event_record, lambda: {"file_version": "brain.Event:2"}, 0, now),
            lambda: _layout_record(charts.now, 0, now),  # in the place of a removed file
        ]
        os.makedirs(log_dir, exist_ok=True)
        next_path = partial(_next_path, os.path.abspath(log_dir))
        self._file = AppendedFile(next_path(), "xb", header=header, next_path=next_path)
        self._step = 0

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Write one snapshot."""
        self._file.write(partial(_scalar_records, self._charts, report, metrics, wall_time, self._prefix))
        self._step = report.step or 0

    def show(self, panels: Panels) -> None:
        """Write figures, texts and histograms."""
        self._append(lambda: {"summary": panel_summary(panels)}, panels.step, panels.wall_time)

    def write_signals(self, signals: Signals, wall_time: float) -> None:
        """Write the verdicts of the signals and the recorded metrics, for the page."""
        self._append(lambda: {"summary": summary_of(signals_value(signals, self._prefix))}, signals.step, wall_time)

    def write_finding(self, finding: Finding, wall_time: float) -> None:
        """Write a finding that is raised or withdrawn, for the page."""
        self._append(lambda: {"summary": summary_of(finding_value(finding, self._prefix))}, self._step, wall_time)

    def flush(self) -> None:
        """Wait until everything is written."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, content: Callable[[], Mapping[str, Any]], step: int, wall_time: float) -> None:
        self._file.write(partial(_event_record, content, step, wall_time))


def _next_path(log_dir: str) -> str:
    """A file that no other program writes. Readers that follow the folder find a new one after an old one."""
    # tensorboard's EventFileWriter loads TensorFlow if it is installed, and waits for the disk.
    name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
    return os.path.join(log_dir, name)


def _layout_record(charts: Sequence[Chart], step: int, wall_time: float) -> bytes:
    """The layout of the charts; nothing if there are none."""
    return _event_record(lambda: {"summary": layout_summary(charts)}, step, wall_time) if charts else b""


def _scalar_records(
    charts: Charts, report: Report, metrics: Mapping[str, float], wall_time: float, prefix: str
) -> bytes:
    """The report and its metrics, after the layout of the charts if they change it."""
    step = report.step or 0
    layout = _layout_record(charts.add(report, metrics), step, wall_time)
    content = {"summary": report_summary(report, metrics, wall_time, prefix)}
    return layout + _event_record(lambda: content, step, wall_time)


def _event_record(content: Callable[[], Mapping[str, Any]], step: int, wall_time: float) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event

    return record(Event(step=step, wall_time=wall_time, **content()).SerializeToString())


def record(data: bytes) -> bytes:
    """A record of an event file: length, checksum of the length, data, checksum of the data.

    Example:
        >>> len(record(b"data"))
        20
    """
    length = struct.pack("<Q", len(data))
    return b"".join([length, _checksum(length), data, _checksum(data)])


def records(file: BinaryIO) -> Iterator[bytes]:
    """The data of the records of an event file, up to its end or to a truncated record.

    The reader of tensorboard loads TensorFlow if it is installed, which takes seconds.

    Args:
        file: opened for reading.

    Example:
        >>> import io
        >>> list(records(io.BytesIO(record(b"first") + record(b"second")[:-1])))
        [b'first']
    """
    while len(header := file.read(12)) == 12:
        (length,) = struct.unpack("<Q", header[:8])
        data, checksum = file.read(length), file.read(4)
        if header[8:] != _checksum(header[:8]) or checksum != _checksum(data):
            return
        yield data


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C of the format."""
    checksum = _crc32c()(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@lru_cache(maxsize=1)
def _crc32c() -> Callable[[bytes], int]:
    """A compiled CRC-32C. That of tensorboard is written in Python and holds the GIL for 10 ms per 100 kB."""
    try:
        import google_crc32c
    except ImportError:
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c
    else:
        crc32c = google_crc32c.value
    checksum: Callable[[bytes], int] = crc32c
    return checksum


_layouts: WeakKeyDictionary[Any, dict[str, tuple[Chart, ...]]] = WeakKeyDictionary()
"""The charts of each monitor that writes into a writer, by prefix: TensorBoard takes one layout for all of them."""


class SummaryWriterOutput:
    """Writes into the event file of a ``SummaryWriter`` that the caller owns.

    Args:
        writer: of torch.utils.tensorboard. Of other writers (tensorboardX) only ``add_scalar`` is used, so they show
            no panels.
        prefix: of the metrics.
    """

    def __init__(self, writer: Any, prefix: str = PREFIX) -> None:
        self._writer = writer
        self._is_torch = type(writer).__module__.startswith("torch.")
        self._charts, self._prefix = Charts(prefix), prefix
        self._step = 0

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Write one snapshot."""
        step = report.step or 0
        if self._is_torch:
            self._step = step
            if changed := self._charts.add(report, metrics):
                layouts = _layouts.setdefault(self._writer, {})
                layouts[self._prefix] = changed
                self._add(layout_summary([*itertools.chain(*layouts.values())]), step, wall_time)
            self._add(report_summary(report, metrics, wall_time, self._prefix), step, wall_time)
        else:
            for tag, value in metrics.items():
                self._writer.add_scalar(tag, value, step, wall_time)
        self._writer.flush()

    def show(self, panels: Panels) -> None:
        """Write figures, texts and histograms, if the writer is torch's."""
        if not self._is_torch:
            return
        self._add(panel_summary(panels), panels.step, panels.wall_time)
        self._writer.flush()

    def write_signals(self, signals: Signals, wall_time: float) -> None:
        """Write the verdicts of the signals and the recorded metrics, for the page, if the writer is torch's."""
        if self._is_torch:
            self._add(summary_of(signals_value(signals, self._prefix)), signals.step, wall_time)

    def write_finding(self, finding: Finding, wall_time: float) -> None:
        """Write a finding that is raised or withdrawn, for the page, if the writer is torch's."""
        if self._is_torch:
            self._add(summary_of(finding_value(finding, self._prefix)), self._step, wall_time)

    def _add(self, summary: Any, step: int, wall_time: float) -> None:
        self._writer._get_file_writer().add_summary(summary, step, wall_time)

    def close(self) -> None:
        """Do nothing: the caller closes the writer."""
