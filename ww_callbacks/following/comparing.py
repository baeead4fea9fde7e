"""Compares the layers of a checkpoint with those of the published one before it, and with those of the first one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.following.holding import Holding
from ww_callbacks.following.lease import Claims
from ww_callbacks.following.ledger import Entry, Ledger, before, ends
from ww_callbacks.following.parts import add_parts, parts_of
from ww_callbacks.following.results import Result
from ww_callbacks.following.running import Runner
from ww_callbacks.following.scan import GONE, version_of, written_at
from ww_callbacks.following.stored import layers_at, place_of
from ww_callbacks.models.run import Analysed
from ww_callbacks.report import LayerReport
from ww_callbacks.report.layer import FIELDS
from ww_callbacks.weights import Layer
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.task import make_comparison

COMPARED = 2
"""Checkpoints with which the next one is compared: the first and the last one that was published."""

_COLUMNS = tuple(name for name in FIELDS if name.startswith(("update_", "learned_")))

_log = logging.getLogger("ww_callbacks")


class Comparing:
    """The columns about changes of checkpoints that are analysed and will be published next.

    Followers share this work as they share the analysis. Which checkpoints are published before is known only when they
    are; what was compared with others is not used.

    Args:
        root: the folder of the run, or its URL.
        ledger: knows what is analysed and published.
        claims: of this process.
        holding: keeps the first and the last published checkpoint.
        runner: runs the tasks.
    """

    def __init__(self, root: Location, ledger: Ledger, claims: Claims, holding: Holding, runner: Runner) -> None:
        self._root, self._ledger, self._claims, self._holding, self._runner = root, ledger, claims, holding, runner

    def share(self, results: Sequence[Result]) -> None:
        """Compare checkpoints that are likely to be published, as far as no other follower does.

        Args:
            results: of the checkpoints, in the order of their steps.

        Raises:
            OSError: a folder cannot be read or written.
        """
        chain: list[Entry | Result] = [*self._ledger.chain()]
        for result in results:
            chain = before(chain, result.step)
            try:
                self._compare(result, ends(chain))
            except FileNotFoundError:  # another follower has published it
                return
            chain.append(result)

    def columns(self, result: Result) -> dict[str, dict[str, Any]] | None:
        """The columns about changes of a checkpoint that is published now, by the name of the layer.

        Args:
            result: of the checkpoint.

        Returns:
            None if another follower has not finished its part yet.

        Raises:
            OSError: a folder cannot be read or written.
        """
        others = ends(before(self._ledger.chain(), result.step))
        has_parts = self._compare(result, others)
        found = self._found(result, others)
        if found is None and has_parts:
            return None
        if found is None:
            if others:
                _log.warning("step %d: nothing to compare with step %d", result.step, others[0].step)
            return {}
        reports = [each.report for each in self._ledger.updates.layers(found)]
        _tell_missing(result, others, reports)
        return {report.name: {name: getattr(report, name) for name in _COLUMNS} for report in reports}

    def _compare(self, result: Result, others: Sequence[Entry | Result]) -> bool:
        """Compare the layers that no other follower has; whether there are any to compare."""
        if not others:
            return False
        if self._found(result, others) is not None:
            return True
        paths = [self._path_of(each) for each in (result, *others)]
        layers = self._layers(paths[0])
        tasks = self._tasks(result, others, layers)
        parts = parts_of([spec for spec, _ in tasks])
        comparison = Result(result.step, result.checkpoint, result.written, _key(result, others), count=len(parts))
        model = [layer.spec for layer in layers.values() if layer.spec is not None]

        def run(positions: Sequence[int]) -> dict[int, Analysed]:
            wanted = {position: tasks[position] for position in positions}
            return self._runner.compare(paths, result.step, wanted, model)

        add_parts(comparison, parts, self._ledger.updates, self._claims, run, at_once=self._runner.takes_all)
        return bool(parts)

    def _tasks(
        self, result: Result, others: Sequence[Entry | Result], layers: Mapping[str, Layer]
    ) -> list[tuple[LayerSpec, Message]]:
        """What is done with each layer that was analysed in the checkpoint and in another one."""
        analysed = {each.report.name: each for each in self._ledger.results.layers(result)}
        known = [self._digests(each) for each in others]
        steps = [result.step, *(each.step for each in others)]
        tasks = []
        for name, layer in layers.items():
            now, digests = analysed.get(name), [each.get(name, "") for each in known]
            if layer.spec is not None and now is not None and now.digest and any(digests):
                turns = now.report.null == "arranged"
                tasks.append((layer.spec, make_comparison(layer.spec, steps, [now.digest, *digests], turns=turns)))
        return tasks

    def _digests(self, checkpoint: Entry | Result) -> Mapping[str, str]:
        if isinstance(checkpoint, Entry):
            return self._ledger.digests(checkpoint)
        return {each.report.name: each.digest for each in self._ledger.results.layers(checkpoint)}

    def _found(self, result: Result, others: Sequence[Entry | Result]) -> Result | None:
        key = _key(result, others)
        return next((each for each in self._ledger.updates.complete() if each.key == key), None)

    def _layers(self, path: Location) -> Mapping[str, Layer]:
        try:
            return layers_at(place_of(path), self._runner.selection)
        except (ValueError, *GONE):
            return {}

    def _path_of(self, checkpoint: Entry | Result) -> Location:
        """Where the files of a checkpoint are: those that are kept, or those in the folder of the run."""
        original = self._root / checkpoint.checkpoint
        copies = [copy for name, copy in self._holding.kept() if name == checkpoint.checkpoint]
        places: list[Location] = [*copies, original]
        for path in places:
            with suppress(*GONE):
                if written_at(version_of(path)) == checkpoint.written:
                    return path
        return original


def _key(result: Result, others: Sequence[Entry | Result]) -> str:
    """A name for the comparison of a checkpoint with others."""
    facts = [(each.step, each.checkpoint, each.written) for each in others]
    digest = hashlib.blake2b(repr(facts).encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return f"{result.key}.since-{digest}"


def _tell_missing(result: Result, others: Sequence[Entry | Result], reports: Sequence[LayerReport]) -> None:
    failed = [report for report in reports if report.status == "failed"]
    if failed:
        _log.warning(
            "step %d: the changes of %d of %d layers could not be computed: %s",
            *(result.step, len(failed), len(reports), failed[0].reason),
        )
    for column, other in (("update_since", others[0]), ("learned_since", others[-1])):
        missing = sum(getattr(report, column) is None for report in reports if report.status != "failed")
        if missing:
            _log.warning(
                "step %d: no changes since step %d for %d of %d layers, whose weights are gone or were replaced",
                *(result.step, other.step, missing, len(reports)),
            )
