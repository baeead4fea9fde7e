"""What followers of a run share on disk: settings, results that are not published yet, and what was published.

Every file is created whole and once, so that a process can be killed at any time and several can work at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ww_callbacks.following.results import Result, Results, create

FOLDER = ".follow"
"""The folder for these files, in that of the results."""


RECENT = 8
"""Checkpoints of which digests are kept, so that a run that is restarted before the last one can be compared."""


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


Dated = TypeVar("Dated", bound=Result | Entry)
"""A checkpoint with a step."""


class Ledger:
    """The files that followers of a run share.

    Args:
        folder: for them; created if it does not exist.

    Attributes:
        results: of layers that were analysed.
        updates: of layers that were compared with earlier checkpoints.

    Raises:
        OSError: the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._entries = folder, folder / "checkpoints.jsonl"
        self.results, self.updates = Results(folder / "results"), Results(folder / "updates")

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
        create(path, json.dumps(settings, indent=1, sort_keys=True))
        known = json.loads(path.read_text(encoding="utf-8"))
        stated = json.loads(json.dumps(settings))
        other = sorted(name for name in known.keys() | stated.keys() if known.get(name) != stated.get(name))
        if other:
            pairs = ", ".join(f"{name}: {known.get(name)!r}, now {stated.get(name)!r}" for name in other)
            raise ValueError(
                f"{self._folder.parent}: was followed with other settings ({pairs}); choose another log_dir"
            )

    def digests(self, published: Entry) -> dict[str, str]:
        """Name → digest of the weights of each layer of a checkpoint: the first one, or one of the last.

        Args:
            published: the checkpoint.

        Returns:
            Nothing if they are not kept any more.
        """
        try:
            found: dict[str, str] = json.loads(self._digests(published).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    def keep_digests(self, result: Result, digests: Mapping[str, str]) -> None:
        """Keep the digests of a checkpoint that is about to be noted as published, beside those of earlier ones."""
        create(self._digests(result), json.dumps(digests))

    def record(self, result: Result, problem: str = "") -> None:
        """Note that a checkpoint is published, or why it is not, and delete its results.

        Args:
            result: of the checkpoint.
            problem: why it is not published; empty if it is.

        Raises:
            OSError: it cannot be written.
        """
        values = {"step": result.step, "checkpoint": result.checkpoint, "written": result.written}
        _end_last_line(self._entries)
        with self._entries.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values | ({"problem": problem} if problem else {})) + "\n")
        self.results.remove(result.key)
        self.updates.remove(result.key)
        if not problem:
            chain = self.chain()
            needed = {self._digests(entry) for entry in (*chain[:1], *chain[-RECENT:])}
            for path in self._folder.glob("digests-*.json"):
                if path not in needed:
                    path.unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """What was published or given up, in that order. A truncated last line is left out."""
        try:
            lines = self._entries.read_text(encoding="utf-8").splitlines()
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

    def published(self) -> list[Entry]:
        """What was published, in that order."""
        return [entry for entry in self.entries() if not entry.problem]

    def chain(self) -> list[Entry]:
        """What was published, in the order of the steps, without what a restarted run has replaced."""
        chain: list[Entry] = []
        for entry in self.published():
            while chain and chain[-1].step >= entry.step:
                chain.pop()
            chain.append(entry)
        return chain

    def _digests(self, checkpoint: Entry | Result) -> Path:
        return self._folder / f"digests-{checkpoint.step}-{checkpoint.written!r}.json"


def before(chain: Sequence[Dated], step: int) -> list[Dated]:
    """Those checkpoints of a run that are before a step."""
    return [each for each in chain if each.step < step]


def ends(chain: Sequence[Dated]) -> list[Dated]:
    """The last and the first of some checkpoints, with which later ones are compared; only one if they are the same.

    Example:
        >>> [each.step for each in ends([Entry(step, "", 0.0) for step in (10, 20, 30)])]
        [30, 10]
    """
    return [chain[-1], chain[0]][: len(chain)] if chain else []


def _end_last_line(path: Path) -> None:
    """End a line that was truncated when its writer was killed."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
