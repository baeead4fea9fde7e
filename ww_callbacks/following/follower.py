"""Follows a run: finds its checkpoints, analyses them and publishes the results in the order of their steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ww_callbacks.following.comparing import COMPARED, Comparing
from ww_callbacks.following.holding import Holding
from ww_callbacks.following.lease import Claims
from ww_callbacks.following.ledger import FOLDER, Entry, Ledger, before
from ww_callbacks.following.parts import add_parts, parts_of
from ww_callbacks.following.publishing import Publishing
from ww_callbacks.following.results import Result
from ww_callbacks.following.running import Runner
from ww_callbacks.following.scan import still_holds, version_of, written_at
from ww_callbacks.following.table import Checkpoint, Table, is_restart
from ww_callbacks.following.work import Work
from ww_callbacks.models.run import Analysed
from ww_callbacks.monitor.options import Options
from ww_callbacks.progress import Bar, progress_bar
from ww_callbacks.report import History, LayerReport, Report
from ww_callbacks.report.row import changed
from ww_callbacks.signals.stop import EarlyStopping
from ww_callbacks.weights.files.errors import WeightsFileError
from ww_callbacks.weights.files.remote import Location

GIVE_UP = 600.0
"""Seconds without a change after which a checkpoint that cannot be read is left out."""

_PUBLISHER = "publisher"

_log = logging.getLogger("ww_callbacks")


class Follower:
    """One process that follows a run; others may follow the same run at the same time and share the work.

    Args:
        root: the folder of the run, or its URL.
        log_dir: folder for the results.
        work: how checkpoints are found and analysed.
        options: those of a monitor that say how results are published.
        early_stopping: the rules; None for the default ones.
        hold: most checkpoints that are kept for later, see :class:`ww_callbacks.following.holding.Holding`.

    Raises:
        OSError: a folder cannot be read or written.
        ValueError: the run was followed with other settings.
    """

    def __init__(
        self,
        root: Location,
        log_dir: Path,
        work: Work,
        options: Options,
        early_stopping: EarlyStopping | None,
        hold: int,
    ) -> None:
        self._root, self._log_dir, self._work, self._options = root, log_dir, work, options
        self._early_stopping = early_stopping
        self._ledger = Ledger(log_dir / FOLDER)
        self._ledger.agree(work.stated())
        self._claims = Claims(self._ledger.claims)
        kept_in = root if isinstance(root, Path) else None
        holding = Holding(kept_in, hold + COMPARED if hold and work.updates else hold)
        self._table = Table(root, log_dir, work, self._ledger, holding)
        self._runner = Runner(work)
        self._comparing = Comparing(root, self._ledger, self._claims, holding, self._runner)
        self._publishing: Publishing | None = None

    @property
    def history(self) -> History:
        """The reports so far, if this process publishes them; otherwise none."""
        return self._publishing.history if self._publishing is not None else History()

    @property
    def stop_reason(self) -> str:
        """Why training should end; empty if it should not, or another process publishes."""
        return self._publishing.published.stop_reason if self._publishing is not None else ""

    @property
    def left_out(self) -> int:
        """Number of checkpoints that were not analysed, or not published, by this process."""
        return self._table.left_out

    @property
    def has_found(self) -> bool:
        """Whether any checkpoint was found that can be analysed, by this or another follower."""
        return bool(self._table.checkpoints or self._ledger.published())

    @property
    def is_done(self) -> bool:
        """Whether all that was found is published or left out."""
        return not self._table.checkpoints and not self._ledger.results.complete()

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
        self._table.look()
        patience = 0.0 if is_finished else GIVE_UP
        for checkpoint in list(self._table.checkpoints.values()):
            if checkpoint.layers is None and (checkpoint.is_stable or is_finished):
                self._table.open(checkpoint, patience)
        reports: list[Report] = []
        for identity in sorted(self._table.checkpoints, key=lambda each: self._table.checkpoints[each].step or 0):
            self._analyse(identity, patience)
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
            self._runner.close()
        finally:
            self._claims.close()

    def _analyse(self, identity: str, patience: float) -> None:
        """Analyse the parts of a checkpoint that no other follower has."""
        checkpoint = self._table.checkpoints.get(identity)
        if checkpoint is None or checkpoint.layers is None or checkpoint.step is None:
            return
        parts = parts_of([layer.spec for layer in checkpoint.layers])
        result = Result(
            checkpoint.step, checkpoint.name, written_at(checkpoint.version), checkpoint.key, count=len(parts)
        )
        results, at_once = self._ledger.results, self._runner.takes_all
        try:
            with self._progress_of(checkpoint) as bar:
                add_parts(result, parts, results, self._claims, partial(self._run, checkpoint, bar), at_once=at_once)
        except WeightsFileError as error:
            self._table.fail(checkpoint, error, patience)

    def _progress_of(self, checkpoint: Checkpoint) -> AbstractContextManager[Bar]:
        """The share of the layers of a checkpoint, and its number among those found."""
        total = sum(layer.spec.work for layer in checkpoint.layers or () if layer.spec is not None)
        done = len(self._ledger.published())
        title = f"checkpoint {done + 1} of {done + len(self._table.checkpoints)}, step {checkpoint.step}"
        return progress_bar(title, total, shown=self._work.progress)

    def _run(self, checkpoint: Checkpoint, bar: Bar, positions: Sequence[int]) -> dict[int, Analysed]:
        """The results of some layers.

        Raises:
            WeightsFileError: they cannot be read, or the checkpoint has changed.
        """
        step, model = checkpoint.step, checkpoint.layers or ()
        layers = {position: model[position] for position in positions}
        rest = {position: layer for position, layer in layers.items() if layer.spec is not None}
        found = {
            position: Analysed(layer.skip_report(step), "")
            for position, layer in layers.items()
            if position not in rest
        }
        specs = [layer.spec for layer in model if layer.spec is not None]
        try:
            found |= self._runner.analyse(checkpoint.path, rest, specs, bar)
            now = version_of(checkpoint.path)
        except FileNotFoundError as error:
            raise WeightsFileError(checkpoint.path, "was removed while it was read") from error
        if not still_holds(checkpoint.version, now):
            raise WeightsFileError(checkpoint.path, "was changed while it was read")
        return {position: Analysed(changed(each.report, step=step), each.digest) for position, each in found.items()}

    def _publish(self) -> list[Report]:
        """Publish what is complete, in the order of the steps, if no other follower does."""
        complete = self._ledger.results.complete()
        ready = self._in_order(complete)
        if self._work.updates:
            self._comparing.share(ready)
        is_open = self._publishing is not None
        if not (complete or (not is_open and self._ledger.published())) or not self._claims.acquire(_PUBLISHER):
            return []
        try:
            if not is_open:
                self._start_publishing()
            return self._publish_all(ready)
        except OSError:
            self._stop_publishing()  # what is half written is removed when it is opened again
            raise

    def _in_order(self, complete: Sequence[Result]) -> list[Result]:
        """Of the results, those before the first checkpoint that is not analysed yet."""
        keys = {result.key for result in complete}
        waiting = [
            each.step for each in self._table.checkpoints.values() if each.step is not None and each.key not in keys
        ]
        return [result for result in complete if all(result.step <= step for step in waiting)]

    def _publish_all(self, results: Sequence[Result]) -> list[Report]:
        """Publish results, up to the first one whose changes another follower has not computed yet."""
        reports = []
        for result in results:
            columns = self._comparing.columns(result) if self._work.updates else {}
            if columns is None:
                break
            report = self._publish_one(result, columns)
            if report is not None:
                reports.append(report)
        return reports

    def _publish_one(self, result: Result, columns: Mapping[str, Mapping[str, Any]]) -> Report | None:
        """Publish a result, or note why not.

        Args:
            result: of the checkpoint.
            columns: further columns of its layers, by name.
        """
        if not self._claims.holds(_PUBLISHER):  # this process was stopped for a long time
            self._stop_publishing()
            return None
        published = self._ledger.published()
        last = published[-1] if published else None
        report, problem = None, ""
        if last is not None and result.step <= last.step:
            if is_restart(result.step, result.written, last) or _is_again(result, last):
                _log.warning("step %d was written after step %d: the run was restarted", result.step, last.step)
                self._stop_publishing()
                self._start_publishing(before=result.step)
            else:
                problem = f"its step is not after step {last.step}, which was published, and its time is not later"
        assert self._publishing is not None
        analysed = self._ledger.results.layers(result)
        problem = problem or _difference(self._publishing.history, [each.report for each in analysed])
        if problem:
            self._table.left_out += 1
            _log.warning("%s: left out: %s", self._root / result.checkpoint, problem)
        else:
            earlier = before(self._ledger.chain(), result.step)
            digests = self._ledger.digests(earlier[-1]) if earlier else {}
            layers = with_unchanged(analysed, digests, self._publishing.history)
            layers = [changed(layer, **columns.get(layer.name, {})) for layer in layers]
            report = self._publishing.publish(result.step, layers, result.written)
            self._ledger.keep_digests(result, {each.report.name: each.digest for each in analysed})
        self._ledger.record(result, problem)
        for checkpoint in [each for each in self._table.checkpoints.values() if each.key == result.key]:
            self._table.forget(checkpoint)
        return report

    def _start_publishing(self, before: int | None = None) -> None:
        done = len(self._ledger.published())
        self._publishing = Publishing(self._options, self._log_dir, done, self._early_stopping, before)

    def _stop_publishing(self) -> None:
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            with suppress(OSError):
                publishing.close()


def _is_again(result: Result, last: Entry) -> bool:
    """Whether the last checkpoint was written again."""
    return (result.step, result.checkpoint) == (last.step, last.checkpoint) and result.written > last.written


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
