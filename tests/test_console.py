"""Messages while progress bars are drawn: they stand in lines of their own."""

from __future__ import annotations

import io
import logging
import sys
import warnings

import pytest

from ww_callbacks.checks import warn
from ww_callbacks.console import above_bars


def terminal_of(monkeypatch):
    """One stream for standard output and standard error, as a terminal has it, and a logger that writes to it.

    Its handler was made before any bar, as that of Lightning.
    """
    stream, log = io.StringIO(), logging.getLogger("test_console")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(log, "handlers", [logging.StreamHandler(stream)])
    return stream, log


def before(stream, message):
    """What stands before a message in its line."""
    return stream.getvalue().partition(message)[0].rpartition("\n")[2].rpartition("\r")[2]


def test_a_message_is_written_above_a_bar_of_tqdm(monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    terminal, log = terminal_of(monkeypatch)
    with tqdm.tqdm(total=10, file=terminal, mininterval=0) as bar:
        bar.update(3)
        with above_bars(log):
            log.error("above the bar")
        assert before(terminal, "above the bar") == ""
        assert terminal.getvalue().partition("above the bar\n")[2].lstrip("\r").startswith(" 30%")
        log.error("into the bar")
        assert "3/10" in before(terminal, "into the bar")


def test_a_message_is_written_above_a_bar_of_rich(monkeypatch):
    console = pytest.importorskip("rich.console")
    progress = pytest.importorskip("rich.progress")
    terminal, log = terminal_of(monkeypatch)
    shown = console.Console(force_terminal=True, file=terminal, width=80)
    with progress.Progress(console=shown, auto_refresh=False) as bars:
        bars.add_task("training", total=10, completed=3)
        bars.refresh()
        with above_bars(log):
            log.error("above the bar")
        assert log.handlers[0].stream is terminal
        assert terminal.getvalue().partition("above the bar")[0].endswith("\x1b[2K")  # the line was erased first
        log.error("into the bar")
        assert not terminal.getvalue().partition("into the bar")[0].endswith("\x1b[2K")


def test_a_warning_is_written_above_a_bar(monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    terminal, _ = terminal_of(monkeypatch)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: print(message))
    with tqdm.tqdm(total=10, file=terminal, mininterval=0) as bar, warnings.catch_warnings():
        warnings.simplefilter("always")
        bar.update(3)
        warn("there are no results")
    assert before(terminal, "ww_callbacks: there are no results") == ""


def test_a_terminal_that_is_closed_changes_nothing(monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    terminal, log = terminal_of(monkeypatch)
    kept = io.StringIO()
    monkeypatch.setattr(log, "handlers", [logging.StreamHandler(kept)])
    bar = tqdm.tqdm(total=10, file=terminal, mininterval=0)
    terminal.close()
    with above_bars(log):
        log.error("still written")
    assert kept.getvalue() == "still written\n"
    bar.disable = True
