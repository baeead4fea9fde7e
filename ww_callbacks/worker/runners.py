"""The tasks of a worker process: analysing layers or drawing figures."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from collections.abc import Callable, Iterator

import numpy as np

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.worker.kept import kept_of
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.task import run_task, timed

TaskRunner = Callable[[Message], Message]
"""Runs one task; never raises."""


def analysis_runner(memory: int) -> TaskRunner:
    """A function that runs tasks of :func:`ww_callbacks.worker.task.make_task` on weights in shared memory.

    A message {"tasks": [...]} holds several of them; the answer is {"answers": [...]} in the same order. A message with
    "spool" is a task of :func:`ww_callbacks.worker.spool.make_spool_task`.

    Args:
        memory: descriptor of the memory that holds the weights; it is mapped read-only.
    """
    mapped = mmap.mmap(memory, 0, prot=mmap.PROT_READ)

    def run(message: Message) -> Message:
        if "spool" in message:
            from ww_callbacks.worker.spool import run_spooling  # imports the readers of files

            return run_spooling(message, mapped)
        if "tasks" in message:
            return {"answers": [run_one(task) for task in message["tasks"]]}
        return run_one(message)

    def run_one(task: Message) -> Message:
        try:
            spec = LayerSpec(**task["spec"])
            stored = np.ndarray(spec.shape, spec.storage_dtype, mapped, task["offset"])
            kept = kept_of(memory, task["kept"], spec.shape, spec.storage_dtype) if "kept" in task else None
        except Exception as error:  # the error is reported to the trainer
            return {"error": f"{type(error).__name__}: {error}"}
        return run_task(task, stored, kept)

    return run


def run_drawing(task: Message) -> Message:
    """Draw figures.

    Args:
        task: "drawing", the result of :func:`ww_callbacks.outputs.panels.picture_task`.

    Returns:
        "images" (tag → PNG in base64) or "error", a description. Additionally "cpu", the CPU time in seconds.
    """
    return timed(lambda: _draw(task))


def _draw(task: Message) -> Message:
    with _no_folder_left():
        from ww_callbacks.outputs import figures  # noqa: F401 - says how to install matplotlib, and reads the fonts

        import matplotlib  # isort: skip - only drawing needs it

        matplotlib.get_configdir(), matplotlib.get_cachedir()  # it makes them once
    from ww_callbacks.outputs.panels import draw

    return {"images": draw(task["drawing"])}


@contextlib.contextmanager
def _no_folder_left() -> Iterator[None]:
    """Remove the folder that matplotlib makes for its caches where it may not write into that of the user.

    It would do so when this process exits, which is killed instead.
    """
    before = os.environ.get("MPLCONFIGDIR")
    try:
        yield
    finally:
        made = os.environ.get("MPLCONFIGDIR")
        if made is not None and made != before:
            shutil.rmtree(made, ignore_errors=True)
