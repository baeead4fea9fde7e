"""``ww-callbacks follow``: analyses the checkpoints of a run as they are written."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import ww_callbacks as ww
from ww_callbacks.cli.options import analysis_arguments
from ww_callbacks.cli.output import show_progress
from ww_callbacks.cli.status import DONE, INTERRUPTED, STOPPED
from ww_callbacks.cli.watch import summary_line
from ww_callbacks.report import Report

CONNECT_TIMEOUT = 30
"""Seconds to wait for the scheduler of a Dask cluster."""

_log = logging.getLogger("ww_callbacks")


def run(arguments: argparse.Namespace) -> int:
    """Follow the run until it should stop, until Ctrl-C, or once."""
    reasons: list[str] = []

    def on_stop(reason: str) -> None:
        reasons.append(reason)
        if arguments.stop_file is not None:
            _write_reason(arguments.stop_file, reason)
        if arguments.on_stop is not None:
            _run_command(arguments.on_stop, reason)

    with _interrupts() as interrupted, _ended_by_sigterm(), _client(arguments.dask) as executor:
        ww.follow(
            arguments.folder,
            log_dir=arguments.log_dir,
            checkpoints=arguments.checkpoints,
            once=arguments.once,
            poll=arguments.poll,
            hold=arguments.hold,
            on_stop=on_stop,
            until_stop=arguments.until_stop,
            on_result=_show,
            figures=arguments.figures,
            updates=arguments.updates,
            executor=executor,
            progress=show_progress(arguments),
            **analysis_arguments(arguments),
        )
    if interrupted:
        return INTERRUPTED
    return STOPPED if reasons and arguments.until_stop else DONE


def _write_reason(path: str, reason: str) -> None:
    try:
        Path(path).write_text(f"{reason}\n", encoding="utf-8")
    except OSError as error:
        _log.warning("--stop-file: not written: %s", error)


def _run_command(command: str, reason: str) -> None:
    status = subprocess.run(command, shell=True, check=False, env=os.environ | {"WW_STOP_REASON": reason}).returncode
    if status:
        _log.warning("--on-stop: %r ended with status %d", command, status)


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Note Ctrl-C, after which the follower publishes what it has and returns as usual."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a shell may let a job ignore it
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """End as after an error when a scheduler sends SIGTERM, so that claims are given back."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _client(address: str | None) -> AbstractContextManager[Any]:
    """A connection to a Dask cluster; None without an address."""
    if address is None:
        return nullcontext()
    try:
        import distributed
    except ImportError as error:
        raise ImportError("--dask needs distributed: pip install distributed") from error
    make_client: Any = distributed.Client
    client: AbstractContextManager[Any] = make_client(address, timeout=CONNECT_TIMEOUT)
    return client


def _show(report: Report) -> None:
    print(summary_line(report), flush=True)
