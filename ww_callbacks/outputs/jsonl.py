"""All results of a run in one file of JSON lines, one line per snapshot."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ww_callbacks.report import History, Report

FILE_NAME = "ww_history.jsonl"


class JsonlOutput:
    """Appends one line per report: ``{"step": …, "wall_time": …, "layers": […]}``.

    Each line is written and flushed at once, so that a run that dies keeps all lines but perhaps the last.

    Args:
        path: the file; its folder is made where it is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, report: Report, metrics: Mapping[str, float], wall_time: float) -> None:
        """Append one report; the metrics can be computed from it and are left out."""
        line = {"step": report.step, "wall_time": wall_time, "layers": report.to_dicts()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_jsonl(path: str | os.PathLike[str]) -> History:
    """The history that a run wrote. A line that was cut off at the end of the file is ignored.

    Args:
        path: a file of :class:`JsonlOutput`.

    Raises:
        ValueError: a line other than the last does not hold a report.
        OSError: the file cannot be read.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    history = History()
    for number, line in enumerate(lines, start=1):
        try:
            history.append(Report.from_dicts(json.loads(line)["layers"]))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError):
                break
            raise ValueError(f"{path}, line {number}: not a report: {error}") from error
    return history
