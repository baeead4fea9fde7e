"""TensorBoard: one event per snapshot for the scalars and the report, others for signals, findings and panels."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

from ww_callbacks.outputs.background import Background
from ww_callbacks.outputs.background_file import CLOSE_TIMEOUT, AppendedFile
from ww_callbacks.outputs.charts import Chart, Charts
from ww_callbacks.outputs.output import Signals
from ww_callbacks.outputs.panels import Panels
from ww_callbacks.outputs.spectra_protos import finding_value, report_summary, signals_value, summary_of
from ww_callbacks.outputs.steps import NO_STEPS, Steps, report_at, signals_at, step_at
from ww_callbacks.outputs.tensorboard_protos import layout_summary, panel_summary, scalar_summary
from ww_callbacks.report import Finding, Report
from ww_callbacks.report.keys import PREFIX

_numbers = itertools.count()

MakeEvents = Callable[[], Iterable[Any]]
"""Makes Event protobufs, in the thread that writes them."""


class _EventOutput:
    """Results as events, which a thread makes. A subclass says where they go.

    Args:
        prefix: of the metrics.
        steps: step of a snapshot → step in the run, where they differ.
    """

    def __init__(self, prefix: str, steps: Steps = NO_STEPS) -> None:
        self._charts, self._prefix, self._steps = Charts(prefix), prefix, steps
        self._step = 0

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Write one snapshot."""
        moved = report_at(report, self._steps)
        self._put(lambda: self._report_events(moved, metrics, wall_time))
        self._step = moved.step or 0

    def show(self, panels: Panels) -> None:
        """Write figures, texts and histograms."""
        step = step_at(panels.step, self._steps)
        self._put(lambda: [_event(panel_summary(panels), step, panels.wall_time)])

    def write_signals(self, signals: Signals, wall_time: float) -> None:
        """Write the verdicts of the signals and the recorded metrics, for the page."""
        moved = signals_at(signals, self._steps)
        self._put(lambda: [_event(summary_of(signals_value(moved, self._prefix)), moved.step, wall_time)])

    def write_finding(self, finding: Finding, wall_time: float) -> None:
        """Write a finding that is raised or withdrawn, for the page."""
        step = self._step
        self._put(lambda: [_event(summary_of(finding_value(finding, self._prefix)), step, wall_time)])

    def _report_events(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> Iterator[Any]:
        """The report and its metrics, after the layout of the charts if they change it."""
        step = report.step or 0
        if charts := self._charts.add(report, metrics):
            yield from _layout_events(self._layout(charts), step, wall_time)
        yield _event(report_summary(report, metrics, wall_time, self._prefix), step, wall_time)

    def _layout(self, charts: Sequence[Chart]) -> Sequence[Chart]:
        """All charts of the event file, if these are the ones of this output."""
        return charts

    def _put(self, make: MakeEvents) -> None:
        """Let a thread make events and write them, in order."""
        raise NotImplementedError


class TensorBoardOutput(_EventOutput):
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
        super().__init__(prefix)
        scalar_summary({})  # raises an ImportError here rather than in the thread
        charts, now = self._charts, time.time()
        header: list[MakeEvents] = [
            lambda: [_version_event(now)],
            lambda: _layout_events(charts.now, 0, now),  # in the place of a removed file
        ]
        os.makedirs(log_dir, exist_ok=True)
        next_path = partial(_next_path, os.path.abspath(log_dir))
        pieces = [partial(_encoded, make) for make in header]
        self._file = AppendedFile(next_path(), "xb", header=pieces, next_path=next_path)

    def flush(self) -> None:
        """Wait until everything is written."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _put(self, make: MakeEvents) -> None:
        self._file.write(partial(_encoded, make))


def _next_path(log_dir: str) -> str:
    """A file that no other program writes. Readers that follow the folder find a new one after an old one."""
    # tensorboard's EventFileWriter loads TensorFlow if it is installed, and waits for the disk.
    name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
    return os.path.join(log_dir, name)


def _layout_events(charts: Sequence[Chart], step: int, wall_time: float) -> list[Any]:
    """The layout of the charts; nothing if there are none."""
    return [_event(layout_summary(charts), step, wall_time)] if charts else []


def _event(summary: Any, step: int, wall_time: float) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event

    return Event(summary=summary, step=step, wall_time=wall_time)


def _version_event(wall_time: float) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event

    return Event(file_version="brain.Event:2", wall_time=wall_time)


def _encoded(make: MakeEvents) -> bytes:
    return b"".join(record(event.SerializeToString()) for event in make())


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


_layouts: WeakKeyDictionary[Any, dict[str, Sequence[Chart]]] = WeakKeyDictionary()
"""The charts of each monitor that writes into a writer, by prefix: TensorBoard takes one layout for all of them."""


def writer_output(
    writer: Any, prefix: str = PREFIX, steps: Steps = NO_STEPS
) -> SummaryWriterOutput | ScalarWriterOutput:
    """The output for a writer that the caller owns.

    Args:
        writer: a ``SummaryWriter`` of torch, or one of another package such as tensorboardX.
        prefix: of the metrics.
        steps: step of a snapshot → step in the run, where they differ.
    """
    is_torch = any(cls.__module__.startswith("torch.") for cls in type(writer).__mro__)
    return SummaryWriterOutput(writer, prefix, steps) if is_torch else ScalarWriterOutput(writer, steps)


class SummaryWriterOutput(_EventOutput):
    """Writes into the event file of torch's ``SummaryWriter`` that the caller owns.

    A thread makes the events and hands them over to the queue of the event file, which takes them from any thread. If
    the caller has closed the writer, torch opens a new file in the same folder for the events that follow, as for a
    call of its own.

    Args:
        writer: of torch.utils.tensorboard.
        prefix: of the metrics.
        steps: step of a snapshot → step in the run, where they differ.
    """

    def __init__(self, writer: Any, prefix: str = PREFIX, steps: Steps = NO_STEPS) -> None:
        super().__init__(prefix, steps)
        self._writer = writer
        self._waiting: list[Any] = []  # used in the thread, and at the end
        self._background = Background("TensorBoard", f"{writer.log_dir}: the disk", timeout=CLOSE_TIMEOUT)

    def close(self) -> None:
        """Wait until everything is written, for a few seconds at most; the caller closes the writer."""
        try:
            self._background.flush()
            if self._waiting:
                self._put(tuple)
        finally:
            self._background.close()

    def _layout(self, charts: Sequence[Chart]) -> Sequence[Chart]:
        layouts = _layouts.setdefault(self._writer, {})
        layouts[self._prefix] = charts
        return [*itertools.chain(*layouts.values())]

    def _put(self, make: MakeEvents) -> None:
        file_writer = self._writer._get_file_writer().event_writer  # opened here: torch's writer has no lock for that
        self._background.add(partial(_hand_over, file_writer, make, self._waiting))


def _hand_over(file_writer: Any, make: MakeEvents, waiting: list[Any]) -> None:
    """Make events and hand them over, after those that wait; they wait for the next file if this one is closed."""
    waiting.extend(make())
    try:
        while waiting:
            file_writer.add_event(waiting[0])
            del waiting[0]
        file_writer.flush()
    except OSError as error:
        if error.errno is not None:  # of the disk; "Writer is closed" has no number
            raise


class ScalarWriterOutput:
    """Writes scalars with the ``add_scalar`` of a writer that the caller owns, in the training thread.

    Args:
        writer: with the methods ``add_scalar`` and ``flush`` of torch's.
        steps: step of a snapshot → step in the run, where they differ.
    """

    def __init__(self, writer: Any, steps: Steps = NO_STEPS) -> None:
        self._writer, self._steps = writer, steps

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Write one snapshot."""
        for tag, value in metrics.items():
            self._writer.add_scalar(tag, value, step_at(report.step or 0, self._steps), wall_time)
        self._writer.flush()

    def close(self) -> None:
        """Do nothing: the caller closes the writer."""
