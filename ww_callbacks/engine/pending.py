"""A snapshot whose results are not all in."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from ww_callbacks.report import LayerReport, Report
from ww_callbacks.weights import Layer
from ww_callbacks.worker.process import failed_report


@dataclass(frozen=True, slots=True)
class Pending:
    """A snapshot under way.

    Attributes:
        step: finished optimizer steps when the weights were copied.
        wall_time: when that was, in seconds since the epoch.
        skipped: snapshots skipped so far.
        slot: where the copies lie.
        layers: every layer of the model, analysed or not.
        futures: the results by position in ``layers``, in the order of their submission.
    """

    step: int
    wall_time: float
    skipped: int
    slot: int
    layers: tuple[Layer, ...]
    futures: dict[int, Future[LayerReport]]

    def done(self) -> bool:
        """Whether all results are in."""
        return all(future.done() for future in reversed(self.futures.values()))

    def report(self) -> Report:
        """The results, once all are in; a layer without one has failed, with the reason."""
        return Report.of((self._layer_report(*item) for item in enumerate(self.layers)), self.step)

    def _layer_report(self, position: int, layer: Layer) -> LayerReport:
        if layer.spec is None:
            return layer.skip_report(self.step)
        future = self.futures[position]
        if future.cancelled():
            return failed_report(layer.spec, self.step, "the monitor was closed")
        error = future.exception()
        if error is not None:
            return failed_report(layer.spec, self.step, f"{type(error).__name__}: {error}")
        return future.result()
