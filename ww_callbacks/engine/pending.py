"""A pending snapshot: its results are not all in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from itertools import count

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.engine.missed import Missed
from ww_callbacks.report import LayerReport, Report
from ww_callbacks.report.row import changed
from ww_callbacks.weights import Layer
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.task import read_answer


@dataclass(frozen=True, slots=True)
class Known:
    """The latest results of a layer.

    Attributes:
        report: its latest one.
        digest: of the weights that the report is about; empty if the analysis failed.
        change: how much the layer changed per step before this report.
    """

    report: LayerReport
    digest: str = ""
    change: float = 0.0


@dataclass(frozen=True, slots=True)
class Awaited:
    """A pending message with the answers of one or several layers.

    Attributes:
        future: gives the answer of the layer; {"answers": [...]} if there are several.
        layers: their indices among the analysed layers; none if the snapshot is not analysed but written to a file.
        known: the result of each layer to repeat if its weights have not changed since.
        seconds: what the analyses are expected to cost.
    """

    future: Future[Message]
    layers: tuple[int, ...]
    known: tuple[Known | None, ...]
    seconds: float

    def message(self) -> Message:
        """The message, once it is in; an exception becomes a message with its description."""
        try:
            return self.future.result()
        except CancelledError:
            return {"error": "the task was cancelled"}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def answers(self) -> list[Message]:
        """The answer of each layer, once the message is in.

        Example:
            >>> future = Future()
            >>> future.set_result({"answers": [{"digest": "1a"}, {"digest": "2b"}]})
            >>> Awaited(future, (0, 1), (None, None), 0.1).answers()
            [{'digest': '1a'}, {'digest': '2b'}]
        """
        message = self.message()
        several = message.get("answers")
        return [message] * len(self.layers) if several is None else several


@dataclass(slots=True)
class Pending:
    """A pending snapshot.

    Attributes:
        step: finished optimizer steps when the weights were copied.
        wall_time: when that was, in seconds since the epoch.
        missed: snapshots missed so far.
        slot: where the copies lie.
        layers: every layer of the model, analysed or not.
        chosen: the layers to analyse, by index among the analysed ones.
        awaited: the messages that have not been read, in the order of submission; None until they are submitted.
    """

    step: int
    wall_time: float
    missed: Missed
    slot: int
    layers: tuple[Layer, ...]
    chosen: Sequence[int]
    awaited: deque[Awaited] | None = None

    def report(self, known: Mapping[int, Known]) -> Report:
        """The latest results of all layers, each with the step at which it was analysed.

        Args:
            known: the latest results, by index among the analysed layers.
        """
        analysed = count()
        return Report(tuple(self._entry(layer, analysed, known) for layer in self.layers), self.step)

    def _entry(self, layer: Layer, analysed: Iterator[int], known: Mapping[int, Known]) -> LayerReport:
        if layer.spec is None:
            return layer.skip_report(self.step)
        found = known.get(next(analysed))
        return LayerReport.waiting(layer.name, layer.kind, layer.role) if found is None else found.report


def read(answer: Message, spec: LayerSpec, step: int, known: Known | None, before: Known | None) -> Known:
    """The results of a layer, including its answer.

    Args:
        answer: of the analysis.
        spec: of the layer.
        step: finished optimizer steps.
        known: the result to repeat if the worker says that the weights are those of this result.
        before: the result before this one. It is later than ``known`` if several snapshots were pending.
    """
    report = read_answer(answer, spec, step, None if known is None else known.report)
    digest = str(answer.get("digest", ""))
    if before is None:
        return Known(report, digest)
    if digest and digest == before.digest:
        since = before.report.unchanged_since
        report = changed(report, unchanged_since=before.report.step if since is None else since)
    return Known(report, digest, change_per_step(before.report, report))


def change_per_step(before: LayerReport, after: LayerReport) -> float:
    """How much a layer changed: ``|Δ log₁₀ Σλ| + |Δ log₁₀ λ_max|`` per step; 0 if that is unknown.

    Example:
        >>> before = LayerReport(name="fc", kind="Linear", step=0, log_norm=1.0, log_spectral_norm=0.5)
        >>> change_per_step(before, LayerReport(name="fc", kind="Linear", step=10, log_norm=2.0, log_spectral_norm=0.5))
        0.1
    """
    if before.step is None or after.step is None or after.step <= before.step:
        return 0.0
    old, new = (before.log_norm, before.log_spectral_norm), (after.log_norm, after.log_spectral_norm)
    if old[0] is None or old[1] is None or new[0] is None or new[1] is None:
        return 0.0
    return (abs(new[0] - old[0]) + abs(new[1] - old[1])) / (after.step - before.step)
