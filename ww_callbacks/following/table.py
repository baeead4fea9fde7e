"""The checkpoints of a run that are not analysed completely: found, kept until they are read, opened or left out."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ww_callbacks.following.content import step_inside
from ww_callbacks.following.holding import Holding
from ww_callbacks.following.ledger import Entry, Ledger, ends
from ww_callbacks.following.scan import GONE, Version, scan, step_of, still_holds, version_of, written_at
from ww_callbacks.following.stored import place_of
from ww_callbacks.following.work import Work
from ww_callbacks.weights import Layer, find_layers, select_layers
from ww_callbacks.weights.files.errors import WeightsFileError
from ww_callbacks.weights.files.remote import Location, RemotePath

_log = logging.getLogger("ww_callbacks")


@dataclass(slots=True)
class Checkpoint:
    """A checkpoint that is not analysed completely.

    Attributes:
        name: its path within the folder of the run.
        path: from where it is read: there, or from links to its files.
        version: its files when it was seen last.
        since: when this version was seen first, in seconds of a monotonic clock.
        step: of the checkpoint; None if it is not known yet.
        is_stable: whether it was the same twice.
        layers: its layers; None until it was opened.
        problem: why it could not be opened.
    """

    name: str
    path: Location
    version: Version
    since: float
    step: int | None
    is_stable: bool = False
    layers: tuple[Layer, ...] | None = None
    problem: str = ""

    @property
    def key(self) -> str:
        """A name that all followers give to this version of the checkpoint."""
        facts = [self.name, *(file[:3] for file in self.version)]
        digest = hashlib.blake2b(repr(facts).encode(errors="surrogateescape"), digest_size=8).hexdigest()
        return f"step-{self.step}-{digest}"


class Table:
    """The checkpoints of a run that are not analysed completely.

    Args:
        root: the folder of the run, or its URL.
        leave_out: a folder that is not searched.
        work: how checkpoints are found and opened.
        ledger: knows what was published.
        holding: keeps checkpoints until they are read.

    Attributes:
        checkpoints: by a key that a new file of the same name has not.
        left_out: number of checkpoints that were left out.
    """

    def __init__(self, root: Location, leave_out: Path, work: Work, ledger: Ledger, holding: Holding) -> None:
        self._root, self._leave_out, self._work = root, leave_out, work
        self._ledger, self._holding = ledger, holding
        self._refused: set[tuple[str, Version]] = set()
        self._unreadable: set[str] = set()
        self.checkpoints: dict[str, Checkpoint] = {}
        self.left_out = 0

    def look(self) -> None:
        """Note new and changed checkpoints, keep them, and forget those that are gone."""
        done = {(entry.checkpoint, entry.written) for entry in self._ledger.entries()}
        seen: set[str] = set()
        for name in scan(self._root, self._work.patterns, self._leave_out, self._tell_unreadable):
            with self._unless_removed():
                path = self._root / name
                if self._is_new(name, version_of(path), done):
                    copy = self._holding.keep(path)
                    seen.add(self._note(name, copy or path, copy))
        self._release()
        for name, copy in self._holding.kept():
            with self._unless_removed():
                if copy.parent.name not in seen and self._is_new(name, version_of(copy), done):
                    seen.add(self._note(name, copy, copy))
        for identity in self.checkpoints.keys() - seen:
            self._gone(self.checkpoints.pop(identity))

    @contextmanager
    def _unless_removed(self) -> Iterator[None]:
        """Go on without a checkpoint that was removed since the folder was listed, or may not be read."""
        try:
            yield
        except PermissionError as error:
            self._tell_unreadable(error)
        except GONE:
            pass

    def _tell_unreadable(self, error: OSError) -> None:
        """Say once that a folder or a file in it may not be read."""
        if str(error) not in self._unreadable:
            self._unreadable.add(str(error))
            self.left_out += 1
            _log.warning("%s: left out: %s", error.filename, error.strerror)

    def _release(self) -> None:
        """Keep what is read or left out no longer, unless the next checkpoint is compared with it."""
        done = {(entry.checkpoint, entry.written) for entry in self._ledger.entries()}
        compared = ends(self._ledger.chain()) if self._work.updates else []
        needed = {(entry.checkpoint, entry.written) for entry in compared}
        for name, copy in self._holding.kept():
            with suppress(OSError):
                version = version_of(copy)
                if not self._is_new(name, version, done) and (name, written_at(version)) not in needed:
                    self._holding.drop(copy)

    def _is_new(self, name: str, version: Version, done: set[tuple[str, float]]) -> bool:
        return (name, written_at(version)) not in done and (name, version) not in self._refused

    def _note(self, name: str, path: Location, copy: Path | None) -> str:
        """Note a checkpoint as it is now; returns its key in the table, which a new file of the same name has not."""
        version = version_of(path)
        identity = copy.parent.name if copy is not None else name
        known = self.checkpoints.get(identity)
        if known is not None and known.version == version:
            known.is_stable = True
        else:
            if known is not None and known.layers is not None:
                self._gone(known)
            self.checkpoints[identity] = Checkpoint(name, path, version, time.monotonic(), step_of(name))
        return identity

    def _gone(self, checkpoint: Checkpoint) -> None:
        self.left_out += 1
        _log.warning("%s: gone before it was read", self._root / checkpoint.name)

    def open(self, checkpoint: Checkpoint, patience: float) -> None:
        """Read the description of a checkpoint; one that cannot be read for so many seconds is left out.

        It is read again when it changes; at a URL at each look, since its server may have been away.
        """
        if not checkpoint.problem or isinstance(checkpoint.path, RemotePath):
            if checkpoint.step is None:
                checkpoint.step = step_inside(checkpoint.path)
            other = self._other_of_step(checkpoint)
            try:
                found = find_layers(place_of(checkpoint.path), split=self._work.split)
                layers = select_layers(found, self._work.layers)
            except (ValueError, OSError) as error:  # incomplete, or of another model
                if other is not None:
                    self.refuse(checkpoint)
                    return
                checkpoint.problem = _cause(error)
            else:
                if other is not None:
                    self.refuse(checkpoint, _part_of(layers, *other))
                    return
                checkpoint.problem = _unfit(checkpoint.step, layers)
                if not checkpoint.problem:
                    checkpoint.layers = layers
                    return
                patience = patience if isinstance(checkpoint.path, RemotePath) else 0.0
        if time.monotonic() - checkpoint.since >= patience:
            self.refuse(checkpoint, checkpoint.problem)

    def _other_of_step(self, checkpoint: Checkpoint) -> tuple[str, frozenset[str]] | None:
        """Another checkpoint of the same step, as "last" often is: its name, and the names of its layers if known."""
        step, name = checkpoint.step, checkpoint.name
        for each in self.checkpoints.values():
            if each.layers and each.step == step and each.name != name:
                return each.name, frozenset(layer.name for layer in each.layers)
        published = self._ledger.published()
        others = [each for each in published if each.step == step and each.checkpoint != name]
        if not others or is_restart(step, written_at(checkpoint.version), published[-1]):
            return None
        return others[-1].checkpoint, frozenset(self._ledger.digests(others[-1]))

    def refuse(self, checkpoint: Checkpoint, problem: str = "") -> None:
        """Leave out a checkpoint, unless it changes, and say why, unless it is the same as another."""
        if problem:
            self.left_out += 1
            _log.warning("%s: left out: %s", self._root / checkpoint.name, problem)
        self._refused.add((checkpoint.name, checkpoint.version))
        self.forget(checkpoint)

    def forget(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint that is read or left out off the table."""
        self.checkpoints = {key: each for key, each in self.checkpoints.items() if each is not checkpoint}
        self._release()

    def fail(self, checkpoint: Checkpoint, error: WeightsFileError, patience: float) -> None:
        """Leave out a damaged checkpoint. One that was changed or removed is noted again by the next look.

        At a URL, the server may have been away: the checkpoint is read again until so many seconds have passed.
        """
        try:
            is_same = still_holds(checkpoint.version, version_of(checkpoint.path))
        except OSError:
            is_same = False
        is_waiting = isinstance(checkpoint.path, RemotePath) and time.monotonic() - checkpoint.since < patience
        if is_same and not is_waiting:
            self.refuse(checkpoint, error.cause)
        else:
            checkpoint.layers, checkpoint.is_stable = None, False


def is_restart(step: int | None, written: float, last: Entry) -> bool:
    """Whether a checkpoint is of a run that was restarted: its step is before the last one, its time after it."""
    return step is not None and step < last.step and written > last.written


def _unfit(step: int | None, layers: Sequence[Layer]) -> str:
    """Why a checkpoint that can be read is not analysed; empty if it is."""
    if step is None:
        return "it states no step, neither in its name nor inside"
    return "it has no layer to analyse" if all(layer.spec is None for layer in layers) else ""


def _part_of(layers: Sequence[Layer], other: str, others: frozenset[str]) -> str:
    """Why a checkpoint is left out beside another one of its step; empty if they have the same layers.

    Args:
        layers: of the checkpoint.
        other: name of the other one.
        others: names of its layers; none if they are not known.
    """
    if not others or any(layer.name in others for layer in layers):
        return ""
    return f"{other!r} is of the same step, with other layers. Save the parts of a model into one folder for each step"


def _cause(error: Exception) -> str:
    return error.cause if isinstance(error, WeightsFileError) else str(error)
