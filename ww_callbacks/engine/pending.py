"""A pending snapshot: its results are not all in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.engine.missed import Missed
from ww_callbacks.report import LayerReport, Report
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
    """A pending result.

    Attributes:
        future: gives the answer.
        known: the result to repeat if the weights have not changed since.
        seconds: what the analysis is expected to cost.
    """

    future: Future[Message]
    known: Known | None
    seconds: float

    def answer(self) -> Message:
        """The answer, once it is in."""
        try:
            return self.future.result()
        except CancelledError:
            return {"error": "the task was cancelled"}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def read(self, answer: Message, spec: LayerSpec, step: int) -> Known:
        """The results of the layer, including its answer."""
        before = self.known.report if self.known is not None else None
        report = read_answer(answer, spec, step, before)
        digest = str(answer.get("digest", ""))
        change = change_per_step(before, report) if before is not None else 0.0
        return Known(report, digest, change)


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
        awaited: their results by position in ``layers``, in the order of submission; None until they are submitted.
    """

    step: int
    wall_time: float
    missed: Missed
    slot: int
    layers: tuple[Layer, ...]
    chosen: Sequence[int]
    awaited: Mapping[int, Awaited] | None = None

    def done(self) -> bool:
        """Whether all results are in."""
        return self.awaited is not None and all(
            awaited.future.done() for awaited in reversed(list(self.awaited.values()))
        )

    def report(self, known: Mapping[int, Known]) -> Report:
        """The latest results of all layers, each with the step at which it was analysed."""
        return Report(tuple(self._entry(*item, known) for item in enumerate(self.layers)), self.step)

    def _entry(self, position: int, layer: Layer, known: Mapping[int, Known]) -> LayerReport:
        if layer.spec is None:
            return layer.skip_report(self.step)
        if position in known:
            return known[position].report
        return LayerReport.waiting(layer.name, layer.kind, layer.role)


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
