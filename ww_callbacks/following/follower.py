"""Follows a run: finds its checkpoints, analyses them and publishes the results in the order of their steps."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ww_callbacks.analysis import Settings
from ww_callbacks.following.cluster import Submits, run_on
from ww_callbacks.following.content import step_inside
from ww_callbacks.following.holding import Holding
from ww_callbacks.following.lease import Claims
from ww_callbacks.following.ledger import FOLDER, Entry, Ledger, Result
from ww_callbacks.following.parts import parts_of
from ww_callbacks.following.publishing import Publishing
from ww_callbacks.following.scan import Version, scan, step_of, still_holds, version_of, written_at
from ww_callbacks.models.run import Analysed, Workers
from ww_callbacks.monitor.options import Options
from ww_callbacks.progress import Bar, progress_bar
from ww_callbacks.report import History, LayerReport, Report
from ww_callbacks.report.row import changed
from ww_callbacks.signals.stop import EarlyStopping
from ww_callbacks.weights import Layer, Split, find_layers, select_layers
from ww_callbacks.weights.files.errors import WeightsFileError

GIVE_UP = 600.0
"""Seconds without a change after which a checkpoint that cannot be read is left out."""

_PUBLISHER = "publisher"

_log = logging.getLogger("ww_callbacks")


@dataclass(frozen=True, slots=True)
class Work:
    """How checkpoints are found and analysed.

    Attributes:
        patterns: of the names of checkpoints.
        layers: patterns of the layers to analyse; None for all.
        split: how to split fused projections.
        settings: settings of the analysis.
        workers: number of worker processes.
        executor: runs the tasks in place of worker processes.
        progress: whether to show a progress bar in a terminal.
    """

    patterns: Sequence[str] = ()
    layers: Sequence[str] | None = None
    split: Split | None = None
    settings: Settings = field(default_factory=Settings)
    workers: int = 1
    executor: Submits | None = None
    progress: bool = False

    def stated(self) -> dict[str, object]:
        """What the results depend on, as plain values."""
        layers = None if self.layers is None else list(self.layers)
        return {"layers": layers, "split": self.split, **self.settings.to_dict()}


@dataclass(slots=True)
class _Checkpoint:
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
    path: Path
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


class Follower:
    """One process that follows a run; others may follow the same run at the same time and share the work.

    Args:
        root: the folder of the run.
        log_dir: folder for the results.
        work: how checkpoints are found and analysed.
        options: those of a monitor that say how results are published.
        early_stopping: the rules; None for the default ones.
        hold: most checkpoints that are kept for later, see :class:`ww_callbacks.following.holding.Holding`.

    Attributes:
        left_out: number of checkpoints that were not analysed, or not published, by this process.

    Raises:
        OSError: a folder cannot be read or written.
        ValueError: the run was followed with other settings.
    """

    def __init__(
        self, root: Path, log_dir: Path, work: Work, options: Options, early_stopping: EarlyStopping | None, hold: int
    ) -> None:
        self._root, self._log_dir, self._work, self._options = root, log_dir, work, options
        self._early_stopping = early_stopping
        self._ledger = Ledger(log_dir / FOLDER)
        self._ledger.agree(work.stated())
        self._claims = Claims(self._ledger.claims)
        self._holding = Holding(root, hold)
        self._checkpoints: dict[str, _Checkpoint] = {}
        self._refused: set[tuple[str, Version]] = set()
        self._unreadable: set[str] = set()
        self._publishing: Publishing | None = None
        self._workers: Workers | None = None
        self.left_out = 0

    @property
    def history(self) -> History:
        """The reports so far, if this process publishes them; otherwise none."""
        return self._publishing.history if self._publishing is not None else History()

    @property
    def stop_reason(self) -> str:
        """Why training should end; empty if it should not, or another process publishes."""
        return self._publishing.published.stop_reason if self._publishing is not None else ""

    @property
    def has_found(self) -> bool:
        """Whether any checkpoint was found that can be analysed, by this or another follower."""
        return bool(self._checkpoints or self._published())

    @property
    def is_done(self) -> bool:
        """Whether all that was found is published or left out."""
        return not self._checkpoints and not self._ledger.complete()

    def poll(self, *, is_finished: bool = False) -> list[Report]:
        """Look for checkpoints, analyse those that are complete, and publish what is ready.

        Args:
            is_finished: whether the run has ended: a checkpoint need not be the same twice, and one that cannot be read
                is left out at once.

        Returns:
            The reports that this process published.

        Raises:
            OSError: a folder cannot be read or written.
        """
        self._look()
        for checkpoint in list(self._checkpoints.values()):
            if checkpoint.layers is None and (checkpoint.is_stable or is_finished):
                self._open(checkpoint, GIVE_UP if not is_finished else 0.0)
        reports: list[Report] = []
        for identity in sorted(self._checkpoints, key=lambda each: self._checkpoints[each].step or 0):
            self._analyse(identity)
            reports += self._publish()
        return reports or self._publish()

    def finish(self) -> None:
        """Show the figures of the last report."""
        if self._publishing is not None:
            self._publishing.finish()

    def close(self) -> None:
        """Give the work back to other followers and close the files."""
        try:
            self._stop_publishing()
            if self._workers is not None:
                self._workers.close()
        finally:
            self._claims.close()

    def _look(self) -> None:
        """Note new and changed checkpoints, keep them, and forget those that are gone."""
        done = {(entry.checkpoint, entry.written) for entry in self._ledger.entries()}
        seen: set[str] = set()
        for name in scan(self._root, self._work.patterns, self._log_dir, self._tell_unreadable):
            with self._unless_removed():
                path = self._root / name
                if self._is_new(name, version_of(path), done):
                    copy = self._holding.keep(path)
                    seen.add(self._note(name, copy or path, copy))
        for name, copy in self._holding.kept():
            identity = copy.parent.name
            if identity in seen:
                continue
            with self._unless_removed():
                if self._is_new(name, version_of(copy), done):
                    seen.add(self._note(name, copy, copy))
                else:
                    self._holding.drop(copy)
        for identity in self._checkpoints.keys() - seen:
            self._gone(self._checkpoints.pop(identity))

    @contextmanager
    def _unless_removed(self) -> Iterator[None]:
        """Go on without a checkpoint that was removed since the folder was listed, or may not be read."""
        try:
            yield
        except PermissionError as error:
            self._tell_unreadable(error)
        except OSError:
            pass

    def _tell_unreadable(self, error: OSError) -> None:
        """Say once that a folder or a file in it may not be read."""
        if str(error) not in self._unreadable:
            self._unreadable.add(str(error))
            self.left_out += 1
            _log.warning("%s: left out: %s", error.filename, error.strerror)

    def _is_new(self, name: str, version: Version, done: set[tuple[str, float]]) -> bool:
        return (name, written_at(version)) not in done and (name, version) not in self._refused

    def _note(self, name: str, path: Path, copy: Path | None) -> str:
        """Note a checkpoint as it is now; returns its key in the table, which a new file of the same name has not."""
        version = version_of(path)
        identity = copy.parent.name if copy is not None else name
        known = self._checkpoints.get(identity)
        if known is not None and known.version == version:
            known.is_stable = True
        else:
            if known is not None and known.layers is not None:
                self._gone(known)
            self._checkpoints[identity] = _Checkpoint(name, path, version, time.monotonic(), step_of(name))
        return identity

    def _gone(self, checkpoint: _Checkpoint) -> None:
        self.left_out += 1
        _log.warning("%s: gone before it was read", self._root / checkpoint.name)

    def _open(self, checkpoint: _Checkpoint, patience: float) -> None:
        """Read the description of a checkpoint; one that cannot be read for so many seconds is left out."""
        if not checkpoint.problem:
            if checkpoint.step is None:
                checkpoint.step = step_inside(checkpoint.path)
            other = self._other_of_step(checkpoint)
            try:
                layers = select_layers(find_layers(checkpoint.path, split=self._work.split), self._work.layers)
            except (ValueError, OSError) as error:  # incomplete, or of another model
                if other is not None:
                    self._refuse(checkpoint)
                    return
                checkpoint.problem = _cause(error)
            else:
                if other is not None:
                    self._refuse(checkpoint, _parts(layers, *other))
                elif checkpoint.step is None:
                    self._refuse(checkpoint, "it states no step, neither in its name nor inside")
                elif all(layer.spec is None for layer in layers):
                    self._refuse(checkpoint, "it has no layer to analyse")
                else:
                    checkpoint.layers = layers
                return
        if time.monotonic() - checkpoint.since >= patience:
            self._refuse(checkpoint, checkpoint.problem)

    def _other_of_step(self, checkpoint: _Checkpoint) -> tuple[str, frozenset[str]] | None:
        """Another checkpoint of the same step, as "last" often is: its name, and the names of its layers if known."""
        step, name = checkpoint.step, checkpoint.name
        for each in self._checkpoints.values():
            if each.layers and each.step == step and each.name != name:
                return each.name, frozenset(layer.name for layer in each.layers)
        published = self._published()
        others = [each.checkpoint for each in published if each.step == step and each.checkpoint != name]
        if not others or _is_restart(step, written_at(checkpoint.version), published[-1]):
            return None
        reports = [report for report in self.history if report.step == step]
        return others[-1], frozenset(layer.name for report in reports for layer in report)

    def _refuse(self, checkpoint: _Checkpoint, problem: str = "") -> None:
        """Leave out a checkpoint, unless it changes, and say why, unless it is the same as another."""
        if problem:
            self.left_out += 1
            _log.warning("%s: left out: %s", self._root / checkpoint.name, problem)
        self._refused.add((checkpoint.name, checkpoint.version))
        self._forget(checkpoint)

    def _forget(self, checkpoint: _Checkpoint) -> None:
        self._checkpoints = {key: each for key, each in self._checkpoints.items() if each is not checkpoint}
        if checkpoint.path != self._root / checkpoint.name:
            self._holding.drop(checkpoint.path)

    def _analyse(self, identity: str) -> None:
        """Analyse the parts of a checkpoint that no other follower has."""
        checkpoint = self._checkpoints.get(identity)
        if checkpoint is None or checkpoint.layers is None or checkpoint.step is None:
            return
        layers = checkpoint.layers
        parts = parts_of([layer.spec for layer in layers])
        result = Result(
            checkpoint.step, checkpoint.name, written_at(checkpoint.version), checkpoint.key, count=len(parts)
        )
        try:
            with self._progress_of(checkpoint) as bar:
                for batch in self._batches(result.key, parts):
                    self._add_parts(checkpoint, result, {number: parts[number] for number in batch}, bar)
        except WeightsFileError as error:
            self._fail(checkpoint, error)

    def _progress_of(self, checkpoint: _Checkpoint) -> AbstractContextManager[Bar]:
        """The share of the layers of a checkpoint, and its number among those found."""
        total = sum(layer.spec.work for layer in checkpoint.layers or () if layer.spec is not None)
        done = len(self._published())
        title = f"checkpoint {done + 1} of {done + len(self._checkpoints)}, step {checkpoint.step}"
        return progress_bar(title, total, shown=self._work.progress)

    def _add_parts(self, checkpoint: _Checkpoint, result: Result, parts: Mapping[int, Sequence[int]], bar: Bar) -> None:
        """Analyse parts that this process has claimed, and give the claims back.

        Raises:
            WeightsFileError: they cannot be read, or the checkpoint has changed.
        """
        layers = checkpoint.layers or ()
        try:
            numbers = [number for number in parts if not self._ledger.has(result.key, number, result.count)]
            wanted = {position: layers[position] for number in numbers for position in parts[number]}
            found = self._run(wanted, checkpoint, bar) if wanted else {}
            for number in numbers:
                self._ledger.add(result, number, {position: found[position] for position in parts[number]})
        finally:
            for number in parts:
                self._claims.release(_claim(result.key, number))

    def _batches(self, key: str, parts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Numbers of parts that this process has claimed: one after the other, or all at once for an executor."""
        free = (
            number
            for number in range(len(parts))
            if not self._ledger.has(key, number, len(parts)) and self._claims.acquire(_claim(key, number))
        )
        if self._work.executor is None:
            yield from ([number] for number in free)
        elif claimed := list(free):
            yield claimed

    def _run(self, layers: Mapping[int, Layer], checkpoint: _Checkpoint, bar: Bar) -> dict[int, Analysed]:
        """The results of some layers.

        Raises:
            WeightsFileError: they cannot be read, or the checkpoint has changed.
        """
        step, work = checkpoint.step, self._work
        skipped = {position: layer for position, layer in layers.items() if layer.spec is None}
        found = {position: Analysed(layer.skip_report(step), "") for position, layer in skipped.items()}
        rest = {position: layer for position, layer in layers.items() if position not in skipped}
        try:
            if work.executor is None:
                found |= self._workers_for(checkpoint).run(rest, work.settings, bar)
            else:
                found |= run_on(work.executor, checkpoint.path, rest, work.settings, bar, work.split)
            now = version_of(checkpoint.path)
        except FileNotFoundError as error:
            raise WeightsFileError(checkpoint.path, "was removed while it was read") from error
        if not still_holds(checkpoint.version, now):
            raise WeightsFileError(checkpoint.path, "was changed while it was read")
        return {position: Analysed(changed(each.report, step=step), each.digest) for position, each in found.items()}

    def _workers_for(self, checkpoint: _Checkpoint) -> Workers:
        """The worker processes, which are kept while checkpoints have the same layers."""
        specs = [layer.spec for layer in checkpoint.layers or () if layer.spec is not None]
        if self._workers is None or not self._workers.fit(specs):
            if self._workers is not None:
                self._workers.close()
            self._workers = Workers(specs, min(self._work.workers, len(specs)))
        return self._workers

    def _fail(self, checkpoint: _Checkpoint, error: WeightsFileError) -> None:
        """Leave out a damaged checkpoint. One that was changed or removed is noted again by the next look."""
        try:
            is_same = still_holds(checkpoint.version, version_of(checkpoint.path))
        except OSError:
            is_same = False
        if is_same:
            self._refuse(checkpoint, error.cause)
        else:
            checkpoint.layers, checkpoint.is_stable = None, False

    def _publish(self) -> list[Report]:
        """Publish what is complete, in the order of the steps, if no other follower does."""
        complete = self._ledger.complete()
        is_open = self._publishing is not None
        if not (complete or (not is_open and self._published())) or not self._claims.acquire(_PUBLISHER):
            return []
        try:
            if not is_open:
                self._start_publishing()
            return [report for result in self._in_order(complete) if (report := self._publish_one(result)) is not None]
        except OSError:
            self._stop_publishing()  # what is half written is removed when it is opened again
            raise

    def _in_order(self, complete: Sequence[Result]) -> list[Result]:
        """Of the results, those before the first checkpoint that is not analysed yet."""
        keys = {result.key for result in complete}
        waiting = [each.step for each in self._checkpoints.values() if each.step is not None and each.key not in keys]
        return [result for result in complete if all(result.step <= step for step in waiting)]

    def _publish_one(self, result: Result) -> Report | None:
        """Publish a result, or note why not."""
        if not self._claims.holds(_PUBLISHER):  # this process was stopped for a long time
            self._stop_publishing()
            return None
        published = self._published()
        last = published[-1] if published else None
        report, problem = None, ""
        if last is not None and result.step <= last.step:
            if _is_restart(result.step, result.written, last) or _is_again(result, last):
                _log.warning("step %d was written after step %d: the run was restarted", result.step, last.step)
                self._stop_publishing()
                self._start_publishing(before=result.step)
            else:
                problem = f"its step is not after step {last.step}, which was published, and its time is not later"
        assert self._publishing is not None
        analysed = self._ledger.layers(result)
        problem = problem or _difference(self._publishing.history, [each.report for each in analysed])
        if problem:
            self.left_out += 1
            _log.warning("%s: left out: %s", self._root / result.checkpoint, problem)
        else:
            layers = with_unchanged(analysed, self._ledger.digests(last), self._publishing.history)
            report = self._publishing.publish(result.step, layers, result.written)
            self._ledger.keep_digests(result, {each.report.name: each.digest for each in analysed})
        self._ledger.record(result, problem)
        for checkpoint in [each for each in self._checkpoints.values() if each.key == result.key]:
            self._forget(checkpoint)
        return report

    def _published(self) -> list[Entry]:
        return [entry for entry in self._ledger.entries() if not entry.problem]

    def _start_publishing(self, before: int | None = None) -> None:
        done = len(self._published())
        self._publishing = Publishing(self._options, self._log_dir, done, self._early_stopping, before)

    def _stop_publishing(self) -> None:
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            with suppress(OSError):
                publishing.close()


def _is_restart(step: int | None, written: float, last: Entry) -> bool:
    """Whether a checkpoint is of a run that was restarted: its step is before the last one, its time after it."""
    return step is not None and step < last.step and written > last.written


def _is_again(result: Result, last: Entry) -> bool:
    """Whether the last checkpoint was written again."""
    return (result.step, result.checkpoint) == (last.step, last.checkpoint) and result.written > last.written


def _parts(layers: Sequence[Layer], other: str, others: frozenset[str]) -> str:
    """Why a checkpoint is left out beside another one of its step; empty if they have the same layers.

    Args:
        layers: of the checkpoint.
        other: name of the other one.
        others: names of its layers; none if they are not known.
    """
    if not others or any(layer.name in others for layer in layers):
        return ""
    return f"{other!r} is of the same step, with other layers. Save the parts of a model into one folder for each step"


def _claim(key: str, part: int) -> str:
    return f"{key}.part-{part}"


def with_unchanged(analysed: Sequence[Analysed], before: Mapping[str, str], history: History) -> list[LayerReport]:
    """The results, with the step since which the weights of a layer have been the same.

    Args:
        analysed: results and digests of the layers of a checkpoint.
        before: name → digest in the last report of the history.
        history: the reports before.
    """
    last = {layer.name: layer for layer in history[-1]} if len(history) else {}
    layers = []
    for layer, digest in analysed:
        known = last.get(layer.name)
        if known is not None and digest and digest == before.get(layer.name):
            since = known.step if known.unchanged_since is None else known.unchanged_since
            layer = changed(layer, unchanged_since=since)
        layers.append(layer)
    return layers


def _difference(history: History, layers: Sequence[LayerReport]) -> str:
    """Why results are not those of the model of a history; empty if they are."""
    if not len(history):
        return ""
    before = {(layer.name, layer.N, layer.M) for layer in history[-1] if layer.N}
    now = {(layer.name, layer.N, layer.M) for layer in layers if layer.N}
    same = len(before & now)
    if 2 * same >= min(len(before), len(now)):
        return ""
    return f"another model: {same} of its {len(now)} layers are among those of step {history[-1].step}"


def _cause(error: Exception) -> str:
    return error.cause if isinstance(error, WeightsFileError) else str(error)
