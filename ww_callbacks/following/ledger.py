"""What followers of a run share on disk: settings, results that are not published yet, and what was published.

Every file is created whole and once, so that a process can be killed at any time and several can work at a time.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ww_callbacks.models.run import Analysed
from ww_callbacks.report.row import from_plain, plain

FOLDER = ".follow"
"""The folder for these files, in that of the results."""

_PART = re.compile(r"(.+)\.(\d+)-of-(\d+)\.json")


@dataclass(frozen=True, slots=True)
class Result:
    """A checkpoint that was analysed.

    Attributes:
        step: of the checkpoint.
        checkpoint: its path within the folder of the run.
        written: when it was written, in seconds since the epoch.
        key: its name among the results.
        count: number of its parts.
    """

    step: int
    checkpoint: str
    written: float
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A checkpoint that was published, or given up.

    Attributes:
        step: of the checkpoint.
        checkpoint: its path within the folder of the run.
        written: when it was written, in seconds since the epoch.
        problem: why it was given up; empty if it was published.
    """

    step: int
    checkpoint: str
    written: float
    problem: str = ""


class Ledger:
    """The files that followers of a run share.

    Args:
        folder: for them; created if it does not exist.

    Raises:
        OSError: the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._published = folder, folder / "checkpoints.jsonl"
        (folder / "results").mkdir(parents=True, exist_ok=True)

    @property
    def claims(self) -> Path:
        """The folder for claims."""
        return self._folder / "claims"

    def agree(self, settings: Mapping[str, Any]) -> None:
        """State with which settings layers are analysed, as the first follower, or compare them with what it stated.

        Raises:
            ValueError: another follower of this run has other settings.
        """
        path = self._folder / "settings.json"
        _create(path, json.dumps(settings, indent=1, sort_keys=True))
        known = json.loads(path.read_text(encoding="utf-8"))
        stated = json.loads(json.dumps(settings))
        other = sorted(name for name in known.keys() | stated.keys() if known.get(name) != stated.get(name))
        if other:
            pairs = ", ".join(f"{name}: {known.get(name)!r}, now {stated.get(name)!r}" for name in other)
            raise ValueError(
                f"{self._folder.parent}: was followed with other settings ({pairs}); choose another log_dir"
            )

    def has(self, key: str, part: int, count: int) -> bool:
        """Whether the results of a part of a checkpoint are there.

        Args:
            key: of the checkpoint.
            part: its number, from 0.
            count: number of parts.
        """
        return self._place(key, part, count).exists()

    def add(self, result: Result, part: int, layers: Mapping[int, Analysed]) -> None:
        """Keep the results of a part of a checkpoint; those of another process stay if it was faster.

        Args:
            result: of the checkpoint.
            part: its number, from 0.
            layers: position among the layers of the checkpoint → results.

        Raises:
            OSError: they cannot be written.
        """
        rows = [[position, plain(layer.report), layer.digest] for position, layer in layers.items()]
        _create(self._place(result.key, part, result.count), json.dumps(asdict(result) | {"layers": rows}))

    def complete(self) -> list[Result]:
        """The checkpoints of which all parts are analysed, in the order of their steps.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file is damaged.
        """
        parts = Counter((match[1], int(match[3])) for match in self._matches())
        found = []
        for (key, count), number in parts.items():
            if number == count:
                with suppress(FileNotFoundError):  # published meanwhile by another follower
                    values = self._read(key, 0, count)
                    found.append(Result(**{name: values[name] for name in Result.__slots__}))
        return sorted(found, key=lambda result: (result.step, result.written))

    def layers(self, result: Result) -> list[Analysed]:
        """The results of all layers of a checkpoint, in the order of the model.

        Raises:
            OSError: a part is missing.
            ValueError: a part is damaged.
        """
        rows: list[tuple[int, list[Any], str]] = []
        for part in range(result.count):
            rows += self._read(result.key, part, result.count)["layers"]
        return [Analysed(from_plain(values), digest) for _, values, digest in sorted(rows, key=lambda row: row[0])]

    def digests(self, published: Entry | None) -> dict[str, str]:
        """Name → digest of the weights of each layer of the checkpoint that was published last.

        Args:
            published: that checkpoint; None for none.
        """
        try:
            found: dict[str, str] = (
                json.loads(self._digests(published).read_text(encoding="utf-8")) if published else {}
            )
        except (OSError, ValueError):
            return {}
        return found

    def keep_digests(self, result: Result, digests: Mapping[str, str]) -> None:
        """Keep the digests of a checkpoint that is about to be noted as published, beside those of the last one."""
        _create(self._digests(result), json.dumps(digests))

    def record(self, result: Result, problem: str = "") -> None:
        """Note that a checkpoint is published, or why it is not, and delete its results.

        Args:
            result: of the checkpoint.
            problem: why it is not published; empty if it is.

        Raises:
            OSError: it cannot be written.
        """
        values = {"step": result.step, "checkpoint": result.checkpoint, "written": result.written}
        _end_last_line(self._published)
        with self._published.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values | ({"problem": problem} if problem else {})) + "\n")
        for part in range(result.count):
            self._place(result.key, part, result.count).unlink(missing_ok=True)
        if not problem:
            for path in self._folder.glob("digests-*.json"):
                if path != self._digests(result):
                    path.unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """What was published or given up, in that order. A truncated last line is left out."""
        try:
            lines = self._published.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                values = json.loads(line)
                entry = Entry(values["step"], values["checkpoint"], values["written"], values.get("problem", ""))
            except (ValueError, KeyError, TypeError):
                continue
            found.append(entry)
        return found

    def _digests(self, checkpoint: Entry | Result) -> Path:
        return self._folder / f"digests-{checkpoint.step}-{checkpoint.written!r}.json"

    def _place(self, key: str, part: int, count: int) -> Path:
        return self._folder / "results" / f"{key}.{part}-of-{count}.json"

    def _read(self, key: str, part: int, count: int) -> Any:
        return json.loads(self._place(key, part, count).read_text(encoding="utf-8"))

    def _matches(self) -> Iterator[re.Match[str]]:
        matches = (_PART.fullmatch(name) for name in os.listdir(self._folder / "results"))
        return (match for match in matches if match)


def _create(path: Path, text: str) -> None:
    """Create a file with its content at once; one that is there stays."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        draft.write_text(text, encoding="utf-8")
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not path.exists():
                os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _end_last_line(path: Path) -> None:
    """End a line that was truncated when its writer was killed."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
