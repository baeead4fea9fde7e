"""Messages while progress bars are drawn: they stand in lines of their own."""

from __future__ import annotations

import io
import logging
import sys
import warnings

import pytest

from ww_callbacks.checks import warn
from ww_callbacks.console import above_bars


@pytest.fixture
def terminal(monkeypatch):
    """One stream for standard output and standard error, as a terminal has it."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


@pytest.fixture
def log(terminal):
    """A logger whose handler was made before the bar, as that of Lightning."""
    logger, handler = logging.getLogger("test_console"), logging.StreamHandler(terminal)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)
    assert handler.stream is terminal


def before(stream, message):
    """What stands before a message in its line."""
    return stream.getvalue().partition(message)[0].rpartition("\n")[2].rpartition("\r")[2]


def test_a_message_is_written_above_a_bar_of_tqdm(terminal, log):
    tqdm = pytest.importorskip("tqdm")
    with tqdm.tqdm(total=10, file=terminal, mininterval=0) as bar:
        bar.update(3)
        log.error("into the bar")
        assert "3/10" in before(terminal, "into the bar")  # what would happen without
        with above_bars(log):
            log.error("above the bar")
        bar.update(3)
    shown = terminal.getvalue()
    assert before(terminal, "above the bar") == ""
    assert shown.partition("above the bar\n")[2].lstrip("\r").startswith(" 30%")
    assert "6/10" in shown


def test_a_message_is_written_above_a_bar_of_rich(terminal, log):
    console = pytest.importorskip("rich.console").Console(force_terminal=True, file=terminal, width=80)
    progress = pytest.importorskip("rich.progress")
    with progress.Progress(console=console, auto_refresh=False) as bars:
        bars.add_task("training", total=10, completed=3)
        bars.refresh()
        with above_bars(log):
            log.error("above the bar")
        assert log.handlers[0].stream is terminal
    erased = terminal.getvalue().partition("above the bar")[0]
    assert erased.endswith("\x1b[2K")  # the line of the bar was erased first


def test_a_warning_is_written_above_a_bar(terminal):
    tqdm = pytest.importorskip("tqdm")
    with tqdm.tqdm(total=10, file=terminal, mininterval=0) as bar, warnings.catch_warnings():
        warnings.simplefilter("always")
        bar.update(3)
        warn("there are no results")
    assert "%|" not in before(terminal, "RuntimeWarning: ww_callbacks: there are no results")
