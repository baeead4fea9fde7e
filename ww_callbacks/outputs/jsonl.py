"""All results of a run in one file of JSON lines, one line per snapshot."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ww_callbacks.report import History, Report

FILE_NAME = "ww_history.jsonl"

_BEGINNING = '{"step"'


class JsonlOutput:
    """Appends one line per report: ``{"step": …, "wall_time": …, "layers": […]}``.

    Each line is written and flushed at once, so that a run that dies keeps all lines but perhaps the last.

    Args:
        path: the file; its folder is made where it is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = self.path.exists() and self.path.stat().st_size > 0 and not _ends_with_newline(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        if cut_off:
            self._file.write("\n")

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Append one report; the metrics can be computed from it and are left out."""
        line = {"step": report.step, "wall_time": wall_time, "layers": report.to_dicts()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_jsonl(path: str | os.PathLike[str]) -> History:
    """The history that a run wrote.

    A line that was cut off, by a crash, is ignored. Where the steps go back, because a run was started again with the
    same file, the later lines count.

    Args:
        path: a file of :class:`JsonlOutput`.

    Raises:
        ValueError: a line is not one of a history.
        OSError: the file cannot be read.
    """
    reports: list[Report] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            report = Report.from_dicts(json.loads(line)["layers"])
        except (ValueError, KeyError, TypeError) as error:
            cut_off = line and (line.startswith(_BEGINNING) or _BEGINNING.startswith(line))
            if cut_off and isinstance(error, json.JSONDecodeError):
                continue
            raise ValueError(f"{path}, line {number}: not a report: {error}") from error
        while reports and (reports[-1].step or 0) >= (report.step or 0):
            reports.pop()
        reports.append(report)
    return History(reports)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
