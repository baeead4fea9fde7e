"""Results of the layers of checkpoints on disk, in parts that several processes add.

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


class Results:
    """The results in a folder.

    Args:
        folder: for them; created if it does not exist.

    Raises:
        OSError: the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

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
        create(self._place(result.key, part, result.count), json.dumps(asdict(result) | {"layers": rows}))

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

    def remove(self, key: str) -> None:
        """Delete the results of a checkpoint, and those whose key begins with its key and a dot.

        Args:
            key: of the checkpoint.
        """
        for name in os.listdir(self._folder):
            if name.startswith(f"{key}."):
                (self._folder / name).unlink(missing_ok=True)

    def _place(self, key: str, part: int, count: int) -> Path:
        return self._folder / f"{key}.{part}-of-{count}.json"

    def _read(self, key: str, part: int, count: int) -> Any:
        return json.loads(self._place(key, part, count).read_text(encoding="utf-8"))

    def _matches(self) -> Iterator[re.Match[str]]:
        matches = (_PART.fullmatch(name) for name in os.listdir(self._folder))
        return (match for match in matches if match)


def create(path: Path, text: str) -> None:
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
