"""Decides when panels are shown, and has their figures drawn."""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from ww_callbacks.outputs.layer_map import MapColumn, map_column
from ww_callbacks.outputs.panels import MAX_CHOSEN, Panels, draw, is_shown, picture_task, written_panels
from ww_callbacks.report import Report

Draw = Callable[[dict[str, Any]], "Future[dict[str, Any]] | None"]
"""Submits a drawing task; None if there is no process that draws."""

MAX_STEPS = 96
"""Columns of the map of alpha; of more, every second one is dropped, and of later reports as many."""

SILENT = 1.0
"""Seconds of waiting for figures before a message says so."""

_log = logging.getLogger("ww_callbacks")


class PanelSchedule:
    """The panels of a run: texts and histograms at once, figures when the worker has drawn them.

    One set of figures is pending at a time. Reports that come in the meantime get none; the last report always does.

    Args:
        names: layers with metrics of their own, which may become more: they get histograms.
        chosen: layers whose spectrum is drawn.
        submit: submits a drawing task. If it gives None, figures are drawn here at the end of training.
    """

    def __init__(self, names: frozenset[str], chosen: Sequence[str], submit: Draw) -> None:
        self.names, self._chosen, self._submit = names, list(chosen)[:MAX_CHOSEN], submit
        self._columns: list[MapColumn] = []
        self._every = 1
        self._number = 0
        self._pending: tuple[Future[dict[str, Any]], int, float] | None = None
        self._last: tuple[Report, float, bool, bool] | None = None
        self._disabled = False

    def add(self, report: Report, wall_time: float) -> Iterator[Panels]:
        """Take a report; yields the panels that can be shown now."""
        yield from self._drawn(0.0)
        self._add_column(map_column(report))
        self._number += 1
        shown = is_shown(self._number)
        if shown:
            yield written_panels(report, self.names, wall_time)
        self._last = report, wall_time, shown, shown and self._request(report, wall_time)

    def finish(self, deadline: float) -> Iterator[Panels]:
        """The pending figures, and the panels of the last report.

        Args:
            deadline: of ``time.monotonic()``; until then pending figures are waited for.
        """
        yield from self._drawn(deadline - time.monotonic())
        if self._last is None:
            return
        (report, wall_time, written, requested), self._last = self._last, None
        if not written:
            yield written_panels(report, self.names, wall_time)
        if requested or self._disabled:
            return
        if self._request(report, wall_time):
            yield from self._drawn(deadline - time.monotonic())
        elif not self._disabled:
            yield from self._shown(_draw_here(self._task(report), report.step or 0), report.step or 0, wall_time)

    def _request(self, report: Report, wall_time: float) -> bool:
        if self._pending is not None or self._disabled:
            return False
        future = self._submit(self._task(report))
        if future is not None:
            self._pending = future, report.step or 0, wall_time
        return future is not None

    def _add_column(self, column: MapColumn) -> None:
        """Keep every so many columns and the latest, so that their steps are evenly apart."""
        if self._columns and (self._number - 1) % self._every:
            self._columns.pop()
        self._columns.append(column)
        if len(self._columns) > MAX_STEPS:
            self._every *= 2
            del self._columns[1::2]

    def _task(self, report: Report) -> dict[str, Any]:
        known = [column for column in self._columns if len(column.alphas) == len(self._columns[-1].alphas)]
        return picture_task(report, self._chosen, known)

    def _drawn(self, timeout: float) -> Iterator[Panels]:
        """The pending figures, if they are drawn within the timeout."""
        if self._pending is None:
            return
        future, step, wall_time = self._pending
        if not future.done() and timeout <= 0:
            return
        self._pending = None
        try:
            answer = _result(future, timeout, step)
        except FutureTimeout:
            answer = {"error": f"not drawn within {timeout:.0f} s"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        yield from self._shown(answer, step, wall_time)

    def _shown(self, answer: dict[str, Any], step: int, wall_time: float) -> Iterator[Panels]:
        """The drawn figures; after an error, one message and no further figures."""
        if "images" in answer:
            images = {tag: base64.b64decode(image) for tag, image in answer["images"].items()}
            yield Panels(step, wall_time, images=images)
        else:
            self._disabled = True
            _log.warning("figures are disabled: %s", answer.get("error", "no reason was given"))


def _result(future: Future[dict[str, Any]], timeout: float, step: int) -> dict[str, Any]:
    """The result of a future; a wait of more than a second is said."""
    if timeout > SILENT:
        try:
            return future.result(SILENT)
        except FutureTimeout:
            timeout -= SILENT
            _log.warning(
                "waiting at most %.0f s for the figures of step %s (figures=False leaves them out)", timeout, step
            )
    return future.result(max(timeout, 0.0))


def _draw_here(task: dict[str, Any], step: int) -> dict[str, Any]:
    """Draw in this thread; if it takes more than a second, another one says so."""
    says = threading.Timer(
        SILENT, _log.warning, ["drawing the figures of step %s (figures=False leaves them out)", step]
    )
    says.daemon = True
    says.start()
    try:
        return {"images": draw(task)}
    except Exception as error:
        return {"error": str(error)}
    finally:
        says.cancel()
