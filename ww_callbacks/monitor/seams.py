"""The interfaces between the parts of the monitor, and the way of a result between them.

A snapshot passes through these parts, in this order::

    Source ─▶ Engine ─▶ AnalysisExecutor ─▶ Engine ─▶ History ─▶ Signal ─▶ metrics ─▶ Output
    weights   copies      LayerReport        Report   appends     judges     flat      writes

Each step is one call, from left to right. No part calls back into an earlier one, and a report is never changed after
:meth:`ww_callbacks.History.append` has returned it.

:data:`Source`
    *Gives the weights of one layer, or starts to send them from a device.* The front ends find layers
    (``ww_callbacks.weights``), each layer has a source, and a snapshot calls it once. So the engine knows neither torch
    nor Keras, and a source knows nothing of memory, slots or processes. What it returns may share memory with the
    model. It is copied before training continues.

:class:`AnalysisExecutor`
    *Runs analysis tasks.* A task is a dictionary of plain values and an array; the answer is a dictionary of plain
    values. Nothing else is exchanged, so that the same task runs in a worker process, in a thread, at once, or on a
    cluster. An executor reports failures in two ways. The answer of a failed task has an "error", and monitoring
    continues without that layer. If an executor can run nothing any more, ``broken`` says why, and monitoring ends.
    ``submit`` never blocks, except for the executor that runs tasks at once.

:class:`Signal`
    *Judges a history after each report.* A judgement has metrics, which are logged with the report, and a verdict of
    plain values, which every rank and every checkpoint can hold. Signals never act. A callback that stops training or
    sets learning rates reads the verdict from :class:`Published`, so that the same signal serves every framework.

:class:`Output`
    *Writes a report with its metrics, and may show panels and findings.* Loggers, TensorBoard, JSON lines and the
    user's own classes are all called in the same way (``ww_callbacks.outputs.output.Outputs``). Reports come in the
    order of their steps.
    An output that raises is dropped with a warning; the others continue.

:class:`Published`
    *What training may depend on.* Results arrive at any time, depending on the speed of the worker. ``published``
    changes at snapshot steps and at the end only, so that a decision depends on the step alone, and one broadcast per
    snapshot step is enough to tell all ranks.

Four rules hold at all of these interfaces:

- **Training comes first.** All calls come from the training thread, except for those of the executors, and all of them
  are guarded: with ``on_error="warn"`` an error ends the monitoring, or drops one output, signal or function of the
  user's, and never reaches the training loop.
- **Nothing waits without a limit.** Training waits at snapshots only if it acts on results or with
  ``deterministic=True``, and for late results at the end, each time for ``timeout`` seconds at most. If that is too
  short at a snapshot, training does not wait at later ones.
- **Plain values cross process borders.** Reports, verdicts and checkpoints consist of strings, numbers, lists and
  dictionaries. Nothing is pickled between trainer and worker.
- **Time is not an input.** Given the weights at each snapshot, the reports are the same for every executor. Only when
  they are known differs. If training acts on a verdict (``attach(…, acts=True)``), or with ``deterministic=True``, that
  is fixed too. A ``budget`` is the exception: it counts time.

To add a destination, write an :class:`Output`; to add a rule, a :class:`Signal`; to analyse elsewhere, pass a
``concurrent.futures.Executor`` or a ``distributed.Client``; to support a framework, find its layers and their sources.
"""

from __future__ import annotations

from ww_callbacks.monitor.publishing import Published
from ww_callbacks.outputs.output import Output
from ww_callbacks.signals.signal import Judgement, Signal
from ww_callbacks.worker.executors import AnalysisExecutor
from ww_callbacks.worker.snapshot_buffer import Source

__all__ = ["AnalysisExecutor", "Judgement", "Output", "Published", "Signal", "Source"]
