"""The worker process: ``python -m ww_callbacks.worker``. Started by the trainer, of no use by hand."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any

from ww_callbacks.worker import lifeline

NICENESS = 19


def main() -> None:
    """Answer tasks from stdin until it closes."""
    arguments = _arguments()
    if arguments.lifeline >= 0:
        lifeline.hold(arguments.lifeline, arguments.lifeline_method)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    incoming, outgoing = _private_pipes()
    from ww_callbacks.worker.serve import serve  # numpy: loaded when the lifeline holds

    serve(incoming, outgoing, arguments.memory)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="python -m ww_callbacks.worker", description=__doc__)
    parser.add_argument("--memory", type=int, required=True, help="descriptor of the shared memory")
    parser.add_argument("--lifeline", type=int, default=-1, help="reading end of the lifeline")
    parser.add_argument("--lifeline-method", choices=("signal", "thread"), default=lifeline.default_method())
    return parser.parse_args()


def _private_pipes() -> tuple[int, int]:
    """The protocol's descriptors, out of reach of anything that prints to stdout or reads stdin."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return incoming, outgoing


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(0)
