"""Runs one command, and turns its errors into a sentence and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import select
import sys
import traceback
from collections.abc import Iterator, Sequence

from ww_callbacks.cli.parser import make_parser
from ww_callbacks.cli.status import DONE, ERROR
from ww_callbacks.printable import shown_text

LONGEST_ERROR = 4000
"""Maximal number of characters of a message."""

_EXPECTED = (ImportError, MemoryError, OSError, TypeError, ValueError)
"""Errors whose message is meant for the user; any other is a fault of the program."""

_log = logging.getLogger("ww_callbacks")


def run(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        words: command-line arguments without the name of the program; None for those of this process.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that its encoding does not have
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="ww-callbacks: %(message)s")
    is_verbose = False
    try:
        try:
            arguments = make_parser().parse_args(words)
            is_verbose = arguments.verbose
            with _shown_from(_level(arguments)):
                status: int = arguments.run(arguments)
        except SystemExit as end:  # --help, wrong usage, SIGTERM
            status = int(end.code or DONE)
        sys.stdout.flush()
    except BrokenPipeError as error:
        if not _is_reader_gone():
            return _failed(error, is_verbose)
        _drop_output()
        return DONE
    except Exception as error:
        return _failed(error, is_verbose)
    return status


def _level(arguments: argparse.Namespace) -> int:
    """The level from which the log is shown."""
    if arguments.verbose:
        return logging.DEBUG
    level: int = arguments.level
    return max(level, logging.WARNING) if vars(arguments).get("quiet") else level


@contextlib.contextmanager
def _shown_from(level: int) -> Iterator[None]:
    """Show the log of the package from this level on."""
    before = _log.level
    _log.setLevel(level)
    try:
        yield
    finally:
        _log.setLevel(before)


def _failed(error: Exception, is_verbose: bool) -> int:
    """Say on standard error what is wrong."""
    is_expected = isinstance(error, _EXPECTED)
    if is_verbose or not is_expected:
        traceback.print_exception(error)
    text = _sentence(error) if is_expected else f"unexpected {type(error).__name__}: {error}; please report it"
    print(f"ww-callbacks: error: {shown_text(text, LONGEST_ERROR)}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # a full disk, or a reader that is gone: Python would complain again at its end
        _drop_output()
    return ERROR


def _sentence(error: Exception) -> str:
    """The message of an error.

    Example:
        >>> _sentence(FileNotFoundError(2, "No such file or directory", "run.jsonl"))
        'run.jsonl: No such file or directory'
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


def _is_reader_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # the closed end of a pipe is always reported
    return bool(poll.poll(0))


def _drop_output() -> None:
    """Let what is left for standard output go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
