"""Entry point of the command."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence

from ww_callbacks.cli.parser import make_parser
from ww_callbacks.printable import shown_text

LONGEST_ERROR = 4000
"""Maximal number of characters of a message."""

DONE, FAILED, ERROR, INTERRUPTED = 0, 1, 2, 130


def main(words: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        words: command-line arguments without the name of the program; None for those of this process.

    Returns:
        0 on success; 1 if a layer failed or none could be analysed; 2 if the command line is wrong or a
        file cannot be read or written; 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that its encoding does not have
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="ww-callbacks: %(message)s")
    arguments = make_parser().parse_args(words)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ImportError, MemoryError, OSError, TypeError, ValueError) as error:
        print(f"ww-callbacks: error: {shown_text(str(error), LONGEST_ERROR)}", file=sys.stderr)
        return ERROR
    return status
