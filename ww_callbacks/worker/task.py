"""The analysis of one layer as a task: plain values in, plain values out. All executors run it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer
from ww_callbacks.analysis.change import analyze_change
from ww_callbacks.analysis.earlier import earlier_columns, stacked_spec
from ww_callbacks.analysis.flat import flat
from ww_callbacks.analysis.leading import LeadingCache
from ww_callbacks.analysis.spec import Snapshot
from ww_callbacks.analysis.update import unchanged_columns, update_columns
from ww_callbacks.report import LayerReport, Skip
from ww_callbacks.report.row import changed, from_plain, plain
from ww_callbacks.worker.kept import Before, Kept
from ww_callbacks.worker.protocol import Message

Analysis = Literal["layer", "change"]

ANALYSES: dict[Analysis, Callable[[LayerSpec, NDArray[Any], Settings], LayerReport]] = {
    "layer": analyze_layer,
    "change": analyze_change,
}
"""What a task does with the weights: analyse them, or the change from a baseline that is stored beside them."""

_leading = LeadingCache()
"""Leading directions of earlier snapshots, so that they are computed once in each process."""


def make_task(
    spec: LayerSpec, settings: Settings, step: int | None, digest: str = "", *, analysis: Analysis = "layer"
) -> Message:
    """Create a task for :func:`run_task`.

    Args:
        spec: description of the weights.
        settings: analysis settings.
        step: number of finished optimizer steps.
        digest: digest of the weights analysed last; unchanged weights are not analysed again.
        analysis: one of ``ANALYSES``.
    """
    return {
        "spec": flat(spec),
        "settings": settings.to_dict(),
        "step": step,
        "digest": digest,
        "analysis": analysis,
    }


def make_comparison(spec: LayerSpec, steps: Sequence[int], digests: Sequence[str], *, turns: bool) -> Message:
    """Create a task for :func:`run_task` that compares a layer with its weights at earlier checkpoints.

    The weights are those of :func:`ww_callbacks.analysis.earlier.stacked_spec`; the report holds only the columns about
    changes.

    Args:
        spec: description of the weights at one checkpoint.
        steps: of the checkpoints, as in :func:`ww_callbacks.analysis.earlier.earlier_columns`.
        digests: of the weights that were analysed.
        turns: whether to measure how far the leading directions turned.
    """
    rows = {"spec": flat(spec), "steps": list(steps), "digests": list(digests), "turns": turns}
    return {"spec": flat(stacked_spec(spec, len(steps))), "rows": rows}


def run_task(task: Message, stored: NDArray[Any], kept: Kept | None = None) -> Message:
    """Analyse one layer.

    Args:
        task: task from :func:`make_task` or :func:`make_comparison`.
        stored: the weights; they are not modified.
        kept: weights of earlier analyses, with which they are compared; these weights are kept there for later ones.

    Returns:
        "report" (values of a LayerReport, see :func:`ww_callbacks.report.row.plain`) and "digest" of the weights; or
        "unchanged" (columns that differ from the last report) and "digest" if the weights have the digest of the task;
        or "error", a description, if the analysis failed. Additionally "cpu", the CPU time in seconds.

    Example:
        >>> import numpy as np
        >>> weights = np.random.default_rng(0).standard_normal((80, 60))
        >>> task = make_task(LayerSpec("fc", "Linear", (80, 60), "float64", ((), (0,), (1,))), Settings(), step=5)
        >>> answer = run_task(task, weights)
        >>> answer["report"][:2], run_task(task | {"digest": answer["digest"]}, weights)["unchanged"]
        (['fc', 'Linear'], {})
    """
    if "rows" in task:
        return timed(lambda: _compare(task["rows"], stored))
    return timed(lambda: _analyze(task, stored, kept))


def timed(work: Callable[[], Message]) -> Message:
    """The answer of ``work`` with its CPU time in seconds. An exception becomes an answer with an error message.

    Example:
        >>> timed(lambda: {"value": 1})["value"], timed(lambda: {"value": 1 // 0})["error"]
        (1, 'ZeroDivisionError: integer division or modulo by zero')
    """
    start = time.thread_time()
    try:
        answer = work()
    except MemoryError:
        answer = {"error": "not enough memory for this layer"}
    except Exception as error:  # the error is reported to the caller
        answer = {"error": f"{type(error).__name__}: {error}"}
    return answer | {"cpu": time.thread_time() - start}


def _analyze(task: Message, stored: NDArray[Any], kept: Kept | None) -> Message:
    found, step = weights_digest(stored), task["step"]
    now = None if step is None else Snapshot(step, stored, found)
    before = Before() if kept is None or now is None else kept.exchange(now)
    if found == task.get("digest"):
        changes = {} if now is None else unchanged_columns(now, before.start, before.previous)
        return {"unchanged": changes, "digest": found}
    spec = LayerSpec(**task["spec"])
    report = ANALYSES[task["analysis"]](spec, stored, Settings.from_dict(task["settings"]))
    columns: dict[str, Any] = {"step": step}
    if now is not None:
        leading = partial(_leading.get, spec) if report.null == "arranged" else None
        columns |= update_columns(spec, now, before.start, before.previous, leading)
    return {"report": plain(changed(report, **columns)), "digest": found}


def _compare(task: Message, stored: NDArray[Any]) -> Message:
    spec, steps = LayerSpec(**task["spec"]), task["steps"]
    rows = [Snapshot(step, row, weights_digest(row)) for step, row in zip(steps, stored, strict=True)]
    leading = partial(_leading.get, spec) if task["turns"] else None
    columns = earlier_columns(spec, rows, task["digests"], leading)
    report = LayerReport(name=spec.name, kind=spec.kind, role=spec.role, step=steps[0], **columns)
    return {"report": plain(report), "digest": rows[0].digest}


def weights_digest(stored: NDArray[Any]) -> str:
    """Hexadecimal BLAKE2b digest (128 bits) of the bytes of an array.

    Example:
        >>> weights_digest(np.zeros(3)) == weights_digest(np.zeros(3)), weights_digest(np.ones(3))[:4]
        (True, '1793')
    """
    flat = np.ascontiguousarray(stored).reshape(-1).view(np.uint8)
    return hashlib.blake2b(flat.data, digest_size=16).hexdigest()


def read_answer(answer: Message, spec: LayerSpec, step: int | None, known: LayerReport | None = None) -> LayerReport:
    """The report in an answer. An answer without a valid report gives a report with status "failed".

    Args:
        answer: answer of :func:`run_task`, possibly received through a pipe.
        spec: description of the analysed weights.
        step: number of finished optimizer steps.
        known: last report of the layer, repeated if the weights are unchanged.
    """
    try:
        if "unchanged" in answer and known is not None:
            return changed(known, **(answer["unchanged"] | {"step": step, "unchanged_since": None}))
        if "report" in answer:
            return from_plain(answer["report"])
    except (KeyError, ValueError) as error:
        return failed_report(spec, step, str(error))
    return failed_report(spec, step, str(answer.get("error", "the worker returned no report")))


def failed_report(spec: LayerSpec, step: int | None, error: str) -> LayerReport:
    """The report of a layer whose analysis failed."""
    failure = Skip("analysis_failed", error)
    return LayerReport(name=spec.name, kind=spec.kind, role=spec.role, step=step, **failure.columns)
