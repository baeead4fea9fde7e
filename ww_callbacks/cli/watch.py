"""``ww-callbacks watch``: shows a running training from its JSON lines file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ww_callbacks.cli.paths import check_exists
from ww_callbacks.cli.status import DONE
from ww_callbacks.cli.tables import Fitted, fitting, is_styled, print_report, rich_table
from ww_callbacks.outputs.jsonl import FILE_NAME, JsonlFollower
from ww_callbacks.printable import shown_text
from ww_callbacks.report import History, LayerReport, Report, worst_first
from ww_callbacks.report.table import layer_table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

SHOWN_STEPS = 6


def run(arguments: argparse.Namespace) -> int:
    """Follow the file until Ctrl-C, or show it once."""
    path = arguments.file / FILE_NAME if arguments.file.is_dir() else arguments.file
    _check(path)
    follower = JsonlFollower(path)
    if arguments.once:
        _once(follower)
    elif sys.stdout.isatty() and is_styled():
        _live(path, follower, arguments.interval)
    else:
        for report in _reports(follower, arguments.interval):
            print(summary_line(report), flush=True)
    return DONE


def _check(path: Path) -> None:
    """Check that there is such a file.

    Raises:
        OSError: there is none, or it is no regular file, such as a pipe, which may never end.
    """
    likely = sorted([*path.parent.glob("*.jsonl"), *path.parent.glob(f"*/{FILE_NAME}")])
    check_exists(path, "a training with jsonl=True writes it", likely)
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a regular file")


def _once(follower: JsonlFollower) -> None:
    follower.poll()
    if len(follower.history):
        print_report(follower.history[-1], follower.history.findings)
    else:
        print("no results yet")


def summary_line(report: Report) -> str:
    """One report as a line.

    Example:
        >>> summary_line(Report((), step=200))
        'step 200  no fit'
    """
    summary = report.summary()
    if "alpha" not in summary:
        return f"step {report.step}  no fit"
    parts = [
        f"step {report.step}",
        f"alpha {summary['alpha']:.2f} ({summary['alpha_min']:.2f} to {summary['alpha_max']:.2f})",
        f"reliable {summary['num_reliable']:.0f} of {len(report.counted)}",
    ]
    for key, text in (("num_traps", "traps"), ("num_overtrained", "over-trained"), ("failed", "failed")):
        if summary.get(key):
            parts.append(f"{text} {summary[key]:.0f}")
    return "  ".join(parts)


def _reports(follower: JsonlFollower, interval: float) -> Iterator[Report]:
    while True:
        yield from follower.poll()
        time.sleep(interval)


def _live(path: Path, follower: JsonlFollower, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            follower.poll()
            live.update(_screen(path, follower.history, console.width, console.height), refresh=True)
            time.sleep(interval)


def _screen(path: Path, history: History, width: int, height: int) -> Group:
    """The current state: the latest layers, worst first, and the history of the mean."""
    from rich.console import Group
    from rich.text import Text

    if not len(history):
        return Group(Text(f"no results yet  {shown_text(str(path))}", no_wrap=True))
    report: Report = history[-1]
    fitted = [layer for layer in worst_first(report.layers) if layer.alpha is not None]
    room = max(height - 5, 1)
    table = _table(fitted[:room], width)
    if table.note and room > 1:  # a line for it
        room -= 1
        table = _table(fitted[:room], width)
    course = " → ".join(f"{alpha:.2f}" for alpha in history.series("alpha")[-SHOWN_STEPS:] if alpha is not None)
    age = time.time() - path.stat().st_mtime
    lines: list[RenderableType] = [
        Text(f"step {report.step}, written {age:.0f} s ago  {shown_text(str(path))}", style="bold", no_wrap=True),
        Text(f"mean alpha {course}"),
        rich_table(table.lines),
        *(Text(line, style="dim", no_wrap=True) for line in table.note),
    ]
    if len(fitted) > room:
        lines.append(Text(f"and {len(fitted) - room} layers more; these are the worst", style="dim"))
    return Group(*lines)


def _table(layers: Sequence[LayerReport], width: int) -> Fitted:
    return fitting(layer_table(Report(tuple(layers)).to_dicts()), width)
