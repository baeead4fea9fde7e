"""The worker process, started by the trainer as ``python -m ww_callbacks.worker``. Not for interactive use."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any

from ww_callbacks.worker import lifeline


def main() -> None:
    """Answer tasks until the trainer closes the pipe."""
    arguments = _arguments()
    if arguments.lifeline >= 0:
        lifeline.exit_on_close(arguments.lifeline, arguments.lifeline_method)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(arguments.niceness)
    from ww_callbacks.worker.runners import analysis_runner, run_drawing  # imports numpy: after the lifeline is set up
    from ww_callbacks.worker.serve import serve

    run = analysis_runner(arguments.memory) if arguments.memory >= 0 else run_drawing
    serve(arguments.tasks, arguments.answers, run)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="python -m ww_callbacks.worker", description=__doc__)
    parser.add_argument("--memory", type=int, default=-1, help="descriptor of the shared memory; omit to draw figures")
    parser.add_argument("--tasks", type=int, required=True, help="descriptor from which tasks are read")
    parser.add_argument("--answers", type=int, required=True, help="descriptor to which answers are written")
    parser.add_argument("--lifeline", type=int, default=-1, help="descriptor of the reading end of the lifeline")
    parser.add_argument("--niceness", type=int, default=0, help="increment of the nice value")
    parser.add_argument("--lifeline-method", choices=("signal", "thread"), default=lifeline.default_method())
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(0)
