"""``ww-callbacks serve``: shows the runs in a folder in the browser."""

from __future__ import annotations

import argparse
import sys

from ww_callbacks.cli.output import check_writable, format_of, write
from ww_callbacks.cli.status import DONE
from ww_callbacks.page.api import Api
from ww_callbacks.page.run import Run
from ww_callbacks.page.runs import Runs
from ww_callbacks.page.server import PageServer
from ww_callbacks.page.single import page_file
from ww_callbacks.printable import shown_text

FORMATS = ("html",)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C, or write one file."""
    if arguments.output is not None:
        check_writable(arguments.output)
        format_of(arguments.output, FORMATS)
    runs = Runs(arguments.folder)
    title = runs.folder.resolve().name
    if arguments.output is not None:
        write(page_file(_all(runs), title), arguments.output)
        return DONE
    with PageServer(Api(runs, title), arguments.port) as server:
        print(f"{server.url}  shows the runs in {shown_text(str(runs.folder))}; Ctrl-C ends it", flush=True)
        server.serve_forever()
    return DONE


def _all(runs: Runs) -> dict[str, Run]:
    """All runs with results, read completely.

    Raises:
        ValueError: there are none.
    """
    runs.look()
    for identity in runs.identities:
        runs.get(identity)  # which finds the runs of further monitors
    found = {}
    for identity in runs.identities:
        files = runs.get(identity)
        if files.problem:
            print(f"ww-callbacks: {identity}: {shown_text(files.problem)}", file=sys.stderr)
        if files.is_ours:
            found[identity] = files.run
    if not found:
        raise ValueError(f"{runs.folder}: no run with results of ww_callbacks in this folder")
    return found
