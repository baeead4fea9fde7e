"""Follows a run by its checkpoints, from another process or another computer."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from ww_callbacks.analysis import ConvScale, Fit, Interval
from ww_callbacks.checks import (
    check_callable,
    check_count,
    check_flag,
    check_path,
    check_patterns,
    check_seconds,
    warn,
)
from ww_callbacks.following.cluster import ExecutorEndedError
from ww_callbacks.following.follower import Follower
from ww_callbacks.following.holding import MOST
from ww_callbacks.following.ledger import FOLDER as LEDGER
from ww_callbacks.following.work import Work
from ww_callbacks.monitor.options import Figures, LogEveryLayer, Options
from ww_callbacks.outputs.output import Output
from ww_callbacks.report import Finding, History, Report
from ww_callbacks.signals.stop import EarlyStopping
from ww_callbacks.spectra import Precision
from ww_callbacks.weights import Split
from ww_callbacks.weights.files.remote import Location, RemotePath, located
from ww_callbacks.weights.files.urls import is_url
from ww_callbacks.worker.submits import Submits

__all__ = ["FOLDER", "follow"]

FOLDER = "ww_follow"
"""The default folder for results, in that of the run."""

_TOLD = "stop_told"
"""The file that says that ``on_stop`` was called."""

_log = logging.getLogger("ww_callbacks")


def follow(
    run_dir: str | os.PathLike[str],
    *,
    log_dir: str | os.PathLike[str] | None = None,
    checkpoints: Sequence[str] | None = None,
    once: bool = False,
    poll: float = 10.0,
    hold: int = MOST,
    early_stopping: EarlyStopping | None = None,
    on_stop: Callable[[str], object] | None = None,
    until_stop: bool = False,
    on_result: Callable[[Report], object] | None = None,
    on_finding: Callable[[Finding], object] | None = None,
    outputs: Sequence[Output] = (),
    log_every_layer: LogEveryLayer = "auto",
    figures: Figures = True,
    updates: bool = False,
    layers: Sequence[str] | None = None,
    split: Split | None = None,
    conv_scale: ConvScale = "weightwatcher",
    randomize: bool = True,
    precision: Precision = "float64",
    interval: Interval = "asymptotic",
    fit: Fit = "PL",
    seed: int = 0,
    min_evals: int = 20,
    workers: int = 1,
    executor: Submits | None = None,
    progress: bool = False,
) -> History:
    """Analyse the checkpoints of a run as they are written, in another process or on another computer than training.

    The results are those of the callbacks: TensorBoard, JSON lines, findings and verdicts of early stopping, in the
    order of the steps. A process that was killed continues where it stopped. Several processes that follow the same run
    with the same ``log_dir`` share the work.

    Args:
        run_dir: folder into which training writes checkpoints, directly or in folders of it; or its URL, such as
            ``s3://bucket/run``.
        log_dir: folder for the results: ``ww`` for TensorBoard, and ``ww_history.jsonl``; None for ``ww_follow`` in
            ``run_dir``. Required if ``run_dir`` is a URL.
        checkpoints: patterns of the names of the checkpoints, or of their paths in ``run_dir``, ``"!pattern"`` to
            exclude; None for all.
        once: analyse what is there, and return; for a run that has ended.
        poll: seconds between two looks at the folder. A checkpoint is read when two looks found the same.
        hold: most checkpoints that are kept until they are read, by hard links in ``run_dir``, in case training deletes
            them; 0 for none. There are none at a URL.
        early_stopping: the rules of early stopping; None for the default ones. A follower knows no validation loss, so
            ``and_monitor`` has no effect.
        on_stop: called once, with the reason, when training should stop.
        until_stop: return when training should stop.
        on_result: called with each :class:`~ww_callbacks.report.Report`.
        on_finding: called with each :class:`~ww_callbacks.report.Finding` that is raised or withdrawn.
        outputs: further outputs, each with the methods of :class:`ww_callbacks.monitor.Output`.
        log_every_layer: layers with their own metrics, see :class:`ww_callbacks.monitor.options.Options`.
        figures: whether figures are drawn for TensorBoard, or patterns for up to 8 layers.
        updates: compare each layer also with the previous and with the first checkpoint (``update_norm``,
            ``update_rank``, ``learned_rank`` and so on). The hard links to these two stay in ``run_dir``.
        layers: patterns of the layers to analyse, as in :func:`ww_callbacks.analyze`.
        split: how to split fused projections, as in :func:`ww_callbacks.analyze`.
        conv_scale: scale of convolution eigenvalues.
        randomize: compare each layer with a shuffled copy of itself.
        precision: "float64" or "float32".
        interval: 95 % confidence interval of alpha: "asymptotic" or "bootstrap".
        fit: "PL" (power law) or "TPL" (truncated power law).
        seed: seed of the shuffle and of all resampling.
        min_evals: minimum number of eigenvalues for a fit, as in :func:`ww_callbacks.analyze`.
        workers: number of worker processes.
        executor: analyse layers as tasks of a cluster in place of worker processes: a ``distributed.Client`` or a
            ``concurrent.futures.Executor``, which is not shut down. Its workers read the checkpoints themselves, so
            they have to see ``run_dir`` under the same path or URL.
        progress: show a progress bar in a terminal or a notebook.

    Returns:
        The reports, if this process published them; those of an earlier process included.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed, the run was followed with other settings, or, with
            ``once``, there are no checkpoints.
        OSError: ``run_dir`` is not a folder, ``log_dir`` is not writable, or ``executor`` takes no more tasks.
        ImportError: tensorboard is not installed.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import ww_callbacks as ww
        >>> rng = np.random.default_rng(0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for step in (100, 200):
        ...         np.savez(f"{folder}/step-{step}.npz", **{"fc.weight": rng.standard_normal((100, 60))})
        ...     history = ww.follow(folder, once=True, figures=False)
        >>> history.steps
        [100, 200]
    """
    check_path("run_dir", run_dir)
    check_path("log_dir", log_dir)
    check_patterns("checkpoints", checkpoints)
    for name, flag in (("once", once), ("until_stop", until_stop), ("progress", progress)):
        check_flag(name, flag)
    check_seconds("poll", poll)
    check_count("hold", hold, least=0)
    check_callable("on_stop", on_stop)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor: expected a distributed.Client or a concurrent.futures.Executor, got {executor!r}")
    if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
        raise TypeError(f"early_stopping: expected an EarlyStopping or None, got {early_stopping!r}")
    options = Options(
        every_n_steps=None,
        layers=layers,
        on_result=on_result,
        on_finding=on_finding,
        outputs=outputs,
        log_every_layer=log_every_layer,
        figures=figures,
        workers=workers,
        updates=updates,
        split=split,
        conv_scale=conv_scale,
        randomize=randomize,
        precision=precision,
        interval=interval,
        fit=fit,
        seed=seed,
        min_evals=min_evals,
    )
    root = _folder(run_dir)
    place = _place(log_dir, root)
    work = Work(tuple(checkpoints or ()), layers, split, options.settings(), updates, workers, executor, progress)
    with closing(Follower(root, place, work, options, early_stopping, hold)) as follower:
        told = place / LEDGER / _TOLD
        try:
            for reason in _polls(follower, root, once=once, seconds=poll):
                if reason and not told.exists():
                    _log.warning("%s", reason)
                    if on_stop is not None:
                        on_stop(reason)
                    told.touch()
                if reason and until_stop:
                    break
        except KeyboardInterrupt:
            _log.info("interrupted")
        follower.finish()
        return follower.history


def _folder(run_dir: str | os.PathLike[str]) -> Location:
    root = located(run_dir).absolute()
    is_awaited = isinstance(root, RemotePath) and not root.exists()  # at many URLs, a folder exists once it holds files
    if not root.is_dir() and not is_awaited:
        raise NotADirectoryError(f"run_dir: {root} is not a folder")
    return root


def _place(log_dir: str | os.PathLike[str] | None, root: Location) -> Path:
    if log_dir is not None and not is_url(log_dir):
        return Path(log_dir).absolute()
    if log_dir is None and isinstance(root, Path):
        return root / FOLDER
    raise ValueError(f"log_dir: expected a folder of this machine for the results of {root}, got {log_dir!r}")


def _polls(follower: Follower, root: Location, *, once: bool, seconds: float) -> Iterator[str]:
    """Look again and again; yields why training should stop, or an empty text, after each look."""
    problem = ""
    is_first = True
    while True:
        try:
            follower.poll(is_finished=once)
        except ExecutorEndedError:
            raise
        except OSError as error:  # a full disk, or a folder that is not there for a moment
            if once:
                raise
            if str(error) != problem:
                warn(f"cannot follow {root} for now, trying again every {seconds:g} s: {error}")
            problem = str(error)
        else:
            problem = ""
        if is_first and not follower.has_found:
            if once:
                raise ValueError(f"run_dir: no checkpoints in {root}{_left_out(follower)}")
            _log.warning("no checkpoints in %s yet%s", root, _left_out(follower))
        is_first = False
        yield follower.stop_reason
        if once and follower.is_done:
            return
        time.sleep(min(seconds, 1.0) if once else seconds)


def _left_out(follower: Follower) -> str:
    return f" that can be analysed; {follower.left_out} were left out" if follower.left_out else ""
