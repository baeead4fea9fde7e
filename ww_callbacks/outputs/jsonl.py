"""All results of a run in one file of JSON lines, one line per snapshot and one per finding."""

from __future__ import annotations

import contextlib
import json
import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ww_callbacks.outputs.background_file import AppendedFile
from ww_callbacks.report import Finding, History, Report
from ww_callbacks.report.columns import is_number

FILE_NAME = "ww_history.jsonl"

MAX_LINE_BYTES = 2**28
"""A longer line is refused; a report takes about 3 KB for each layer."""

_BEGINNINGS = (b'{"step"', b'{"finding"')


class JsonlOutput:
    """Appends one line per report: ``{"step": …, "wall_time": …, "layers": […]}``.

    A finding that is raised or withdrawn is a line ``{"finding": {…}, "wall_time": …}`` after the report that
    shows it, with the values of :meth:`ww_callbacks.report.Finding.to_dict`. Readers of the history leave it out.

    A thread writes each line at once, so a run that crashes keeps all lines except perhaps the last.

    Args:
        path: the file; its folder is created if it does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        truncated = self.path.exists() and self.path.stat().st_size > 0 and not _ends_with_newline(self.path)
        self._file = AppendedFile(self.path, "ab")
        if truncated:
            self._file.write(lambda: b"\n")

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Append one report, without the metrics, which can be computed from it."""
        self._file.write(partial(_report_line, report, wall_time))

    def write_finding(self, finding: Finding, wall_time: float) -> None:
        """Append one finding that is raised or withdrawn."""
        self._file.write(partial(_finding_line, finding, wall_time))

    def flush(self) -> None:
        """Wait until everything is written."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_jsonl(path: str | os.PathLike[str]) -> History:
    """The history that a run wrote.

    A truncated line is ignored. If the steps go back, because a run was restarted with the same file, the later lines
    replace the earlier ones.

    Args:
        path: a file of :class:`JsonlOutput`.

    Raises:
        ValueError: a line is not one of a history.
        OSError: the file cannot be read.
    """
    follower = JsonlFollower(path)
    follower.poll(to_end=True)
    return follower.history


class JsonlFollower:
    """Reads a file of :class:`JsonlOutput` that may still grow.

    Args:
        path: the file.

    Attributes:
        history: the reports read so far. A truncated line is ignored, a file that became shorter is read again, and if
            the steps go back, the later lines replace the earlier ones.
        findings: those raised and withdrawn so far, in the order of the file, with the step of the report before each.
        times: wall time of each report that the last :meth:`poll` returned, in seconds since the epoch; 0 if unknown.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._path.stat()
        self.times: list[float] = []
        self._begin()

    def _begin(self) -> None:
        self._offset = self._number = 0
        self.history = History()
        self.findings: list[tuple[int, Finding]] = []

    @property
    def is_void(self) -> bool:
        """Whether the file became shorter than what was read of it."""
        return self._path.stat().st_size < self._offset

    def poll(self, *, to_end: bool = False) -> list[Report]:
        """The reports that were added since the last call.

        Args:
            to_end: also read a last line that does not end with a newline.

        Raises:
            ValueError: a line is not one of a history.
            OSError: the file cannot be read.
        """
        if self.is_void:
            self._begin()
        found = []
        self.times = []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            while line := file.readline(MAX_LINE_BYTES + 1):
                if not (to_end or line.endswith(b"\n") or len(line) > MAX_LINE_BYTES):
                    break
                begins = self._offset == 0
                self._offset += len(line)
                self._number += 1
                report = self._read(line.removeprefix(BOM_UTF8) if begins else line)
                if report is not None:
                    self._add(report)
                    found.append(report)
        return found

    def _add(self, report: Report) -> None:
        last = self.history[-1].step if len(self.history) else None
        if last is not None and (report.step or 0) <= last:
            self.history = History(_before(report, self.history))
            self.findings = [each for each in self.findings if each[0] < (report.step or 0)]
        self.history.append(report)

    def _know(self, values: object) -> None:
        """Keep a finding; one that cannot be read is left out."""
        step = self.history[-1].step if len(self.history) else None
        if isinstance(values, Mapping):
            with contextlib.suppress(ValueError):
                self.findings.append((step or 0, Finding.from_dict(values)))

    def _read(self, line: bytes) -> Report | None:
        """The report in a line; None if the line is truncated or holds a finding."""
        if len(line) > MAX_LINE_BYTES:
            raise self._error(f"longer than {MAX_LINE_BYTES} bytes")
        line = line.rstrip(b"\r\n")
        try:
            values = json.loads(line.decode())
            if isinstance(values, dict) and "finding" in values:
                self._know(values["finding"])
                return None
            report = Report.from_line(values)
            written = values.get("wall_time")
            self.times.append(float(written) if is_number(written) else 0.0)
            return report
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            if _is_cut(line, error):
                return None
            raise self._error(str(error)) from error
        except RecursionError as error:
            raise self._error("nested too deeply") from error
        except ValueError as error:
            raise self._error(str(error)) from error

    def _error(self, why: str) -> ValueError:
        return ValueError(f"{self._path}, line {self._number}: not a report: {why}")


def _report_line(report: Report, wall_time: float) -> bytes:
    return _line({"step": report.step, "wall_time": wall_time, "layers": report.to_dicts()})


def _finding_line(finding: Finding, wall_time: float) -> bytes:
    return _line({"finding": finding.to_dict(), "wall_time": wall_time})


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _is_cut(line: bytes, error: ValueError) -> bool:
    """Whether a line that cannot be read begins as ours do, so that its end is missing."""
    if isinstance(error, UnicodeDecodeError) and error.reason != "unexpected end of data":
        return False
    return bool(line) and any(line.startswith(start) or start.startswith(line) for start in _BEGINNINGS)


def _before(report: Report, history: History) -> Iterator[Report]:
    """The earlier reports that stay if the steps go back, because a run was restarted with the same file."""
    return (each for each in history if (each.step or 0) < (report.step or 0))


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
