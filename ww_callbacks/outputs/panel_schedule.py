"""When pictures are drawn, by whom, and when they are shown."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from ww_callbacks.outputs.panels import MAX_CHOSEN, Panels, draw, is_shown, picture_task, written_panels
from ww_callbacks.report import Report

Drawing = Callable[[dict[str, Any]], "Future[dict[str, Any]] | None"]
"""Hands a task to whoever draws; None where nobody can now."""

MAX_STEPS = 96
"""Columns of the map of alpha; where there are more, every second one is left out."""

_log = logging.getLogger("ww_callbacks")


class Gallery:
    """The panels of a run: some at once, those that have to be drawn when the worker has drawn them.

    One set of pictures is under way at a time. A report that comes meanwhile gets none, the last one always does.

    Args:
        names: layers with metrics of their own: they get histograms.
        chosen: layers whose spectrum is drawn.
    """

    def __init__(self, names: frozenset[str], chosen: Sequence[str]) -> None:
        self._names, self._chosen = names, list(chosen)[:MAX_CHOSEN]
        self._steps: list[int] = []
        self._alphas: list[list[float | None]] = []
        self._number = 0
        self._under_way: tuple[Future[dict[str, Any]], int, float] | None = None
        self._last: tuple[Report, float, bool, bool] | None = None
        self._given_up = False

    def add(self, report: Report, wall_time: float, hand_over: Drawing) -> Iterator[Panels]:
        """Take a report in; gives what can be shown now."""
        yield from self._drawn(0.0)
        self._number += 1
        self._steps.append(report.step or 0)
        self._alphas.append([None if layer.alpha is None else round(layer.alpha, 3) for layer in report.layers])
        if len(self._steps) > MAX_STEPS:
            del self._steps[1::2], self._alphas[1::2]
        shown = is_shown(self._number)
        if shown:
            yield written_panels(report, self._names, wall_time)
        self._last = report, wall_time, shown, shown and self._ask(report, wall_time, hand_over)

    def finish(self, deadline: float, hand_over: Drawing) -> Iterator[Panels]:
        """What is still under way, and the panels of the last report.

        Args:
            deadline: of ``time.monotonic()``; so long is waited for what is drawn elsewhere.
            hand_over: asks whoever draws; where nobody does, the pictures are drawn here: training is over.
        """
        yield from self._drawn(deadline - time.monotonic())
        if self._last is None:
            return
        (report, wall_time, written, asked), self._last = self._last, None
        if not written:
            yield written_panels(report, self._names, wall_time)
        if asked or self._given_up:
            return
        if self._ask(report, wall_time, hand_over):
            yield from self._drawn(deadline - time.monotonic())
        elif not self._given_up:
            yield from self._shown(_draw_here(self._task(report)), report.step or 0, wall_time)

    def _ask(self, report: Report, wall_time: float, hand_over: Drawing) -> bool:
        if self._under_way is not None or self._given_up:
            return False
        future = hand_over(self._task(report))
        if future is not None:
            self._under_way = future, report.step or 0, wall_time
        return future is not None

    def _task(self, report: Report) -> dict[str, Any]:
        known = [row for row in zip(self._steps, self._alphas, strict=True) if len(row[1]) == len(report.layers)]
        return picture_task(report, self._chosen, [step for step, _ in known], [row for _, row in known])

    def _drawn(self, patience: float) -> Iterator[Panels]:
        """The pictures under way, where they are there within the time."""
        if self._under_way is None:
            return
        future, step, wall_time = self._under_way
        if not future.done() and patience <= 0:
            return
        self._under_way = None
        try:
            answer = future.result(max(patience, 0.0))
        except FutureTimeout:
            answer = {"error": f"not drawn within {patience:.0f} s"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        yield from self._shown(answer, step, wall_time)

    def _shown(self, answer: dict[str, Any], step: int, wall_time: float) -> Iterator[Panels]:
        """What came back; without pictures it is said once, and nobody is asked again."""
        if "images" in answer:
            images = {tag: base64.b64decode(image) for tag, image in answer["images"].items()}
            yield Panels(step, wall_time, images=images)
        else:
            self._given_up = True
            _log.warning("no more pictures are drawn: %s", answer.get("error", "no reason was given"))


def _draw_here(task: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"images": draw(task)}
    except Exception as error:
        return {"error": str(error)}
