"""The command-line parser."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import ww_callbacks
from ww_callbacks.cli import analyze, compare, follow, serve, watch
from ww_callbacks.cli.completion import PrintCompletion
from ww_callbacks.cli.options import add_analysis
from ww_callbacks.cli.status import STOPPED
from ww_callbacks.cli.usage import Parser
from ww_callbacks.following.holding import MOST

EXIT = """exit status:
  0 all went well, 1 a layer failed or none could be analysed,
  2 wrong usage or an unreadable file, 130 Ctrl-C"""
_ENDINGS = (
    ".safetensors, torch's .pt .pth .ckpt .bin, .npz, .gguf, .onnx, flax's .msgpack, Keras's .keras .weights.h5 .h5"
)
FILES = f"weights file ({_ENDINGS}) or folder, by its path or URL"

_Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def make_parser() -> Parser:
    """The parser of the command; its result has the function to call as ``run``."""
    parser = Parser(
        prog="ww-callbacks",
        takes="COMMAND ...",
        description="Spectra of the layers of finished and of training models.",
        epilog="'ww-callbacks COMMAND --help' shows the options of a command, with examples.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    _add_analyze(commands)
    _add_compare(commands)
    _add_follow(commands)
    _add_watch(commands)
    _add_serve(commands)
    general = parser.add_argument_group("general")
    general.add_argument("--version", action="version", version=f"ww-callbacks {ww_callbacks.__version__}")
    general.add_argument("--print-completion", action=PrintCompletion, help="print the completion script of a shell")
    _add_help(general)
    return parser


def _add_analyze(commands: _Commands) -> None:
    parser = _command(
        commands,
        "analyze",
        "FILE|DIR",
        "analyse the layers of a weights file",
        """
  ww-callbacks analyze model.safetensors
  ww-callbacks analyze checkpoints/last.ckpt --layers 'encoder.*' '!*.pos_embed'
  ww-callbacks analyze tuned.pt --baseline base.pt -o report.html
  ww-callbacks analyze model.npz --workers 2 --format json | jq .summary.alpha""",
    )
    parser.set_defaults(run=analyze.run)
    parser.add_argument("file", metavar="FILE|DIR", help=FILES)
    add_analysis(parser)
    parser.add_argument_group("comparison").add_argument(
        "--baseline", metavar="FILE", help="model to compare with, layer by layer"
    )
    _add_output(parser, analyze.WRITERS)
    _add_general(parser, quiet="show no progress bar")


def _add_compare(commands: _Commands) -> None:
    parser = _command(
        commands,
        "compare",
        "[NAME=]FILE ...",
        "compare several models",
        """
  ww-callbacks compare small.pt medium.pt large.pt
  ww-callbacks compare r20=resnet20.th r32=resnet32.th r44=resnet44.th --quality r20=8.27 r32=7.37 r44=6.90""",
    )
    parser.set_defaults(run=compare.run)
    parser.add_argument(
        "models", metavar="[NAME=]FILE", nargs="+", help=f"{FILES}; the default name is that of the file"
    )
    add_analysis(parser)
    parser.add_argument_group("comparison").add_argument(
        "--quality",
        metavar="NAME=NUMBER",
        nargs="+",
        action="extend",
        help="accuracy or error of each model, to correlate with the metrics and their controls",
    )
    _add_output(parser, compare.WRITERS)
    _add_general(parser, quiet="show no progress bar")


def _add_follow(commands: _Commands) -> None:
    parser = _command(
        commands,
        "follow",
        "RUN_DIR",
        "analyse the checkpoints of a run as they are written",
        """
  ww-callbacks follow runs/a
  ww-callbacks follow runs/a --checkpoints '*.ckpt' '!last.ckpt' --workers 4
  ww-callbacks follow runs/a --on-stop 'scancel $SLURM_JOB_ID' --until-stop
  ww-callbacks follow runs/a --dask tcp://scheduler:8786
  ww-callbacks follow runs/a --once""",
    )
    parser.set_defaults(run=follow.run)
    parser.add_argument("folder", metavar="RUN_DIR", help="folder or URL where training writes checkpoints")
    checkpoints = parser.add_argument_group("checkpoints")
    checkpoints.add_argument(
        "--checkpoints",
        metavar="PATTERN",
        nargs="+",
        action="extend",
        help="names of the checkpoints, '!PATTERN' to exclude (after RUN_DIR)",
    )
    checkpoints.add_argument("--once", action="store_true", help="analyse what is there and exit")
    checkpoints.add_argument(
        "--poll",
        metavar="S",
        type=_seconds,
        default=10.0,
        help="seconds between two looks at the folder (default: 10)",
    )
    checkpoints.add_argument(
        "--hold",
        metavar="N",
        type=int,
        default=MOST,
        help=f"most checkpoints kept until read (default: {MOST})",
    )
    stop = parser.add_argument_group("when training should stop")
    stop.add_argument(
        "--on-stop",
        metavar="CMD",
        help="shell command to run once when training should stop; WW_STOP_REASON says why",
    )
    stop.add_argument("--stop-file", metavar="FILE", help="file to write the reason to when training should stop")
    stop.add_argument("--until-stop", action="store_true", help=f"exit with status {STOPPED} when training should stop")
    add_analysis(parser, workers=1)
    analysis = parser.add_argument_group("cluster and changes")
    analysis.add_argument(
        "--dask", metavar="ADDRESS", help="analyse on a Dask cluster, whose workers see RUN_DIR under the same path"
    )
    analysis.add_argument("--updates", action="store_true", help="analyse the changes of the weights, too")
    output = parser.add_argument_group("output")
    output.add_argument("--log-dir", metavar="DIR", help="folder for the results (default: RUN_DIR/ww_follow)")
    output.add_argument("--no-figures", dest="figures", action="store_false", help="draw no figures for TensorBoard")
    _add_general(parser, quiet="show no progress bar, and of the log only warnings", level=logging.INFO)


def _add_watch(commands: _Commands) -> None:
    parser = _command(
        commands,
        "watch",
        "RUN.jsonl",
        "follow a running training from its JSON lines file (jsonl=True)",
        """
  ww-callbacks watch runs/a/ww_history.jsonl
  ww-callbacks watch runs/a --once""",
    )
    parser.set_defaults(run=watch.run)
    parser.add_argument("file", metavar="RUN.jsonl", type=Path, help="file of a run, or its folder")
    reading = parser.add_argument_group("reading")
    reading.add_argument("--once", action="store_true", help="show the current state and exit")
    reading.add_argument(
        "--interval",
        metavar="S",
        type=_seconds,
        default=1.0,
        help="seconds between two reads of the file (default: 1)",
    )
    _add_general(parser)


def _add_serve(commands: _Commands) -> None:
    parser = _command(
        commands,
        "serve",
        "RUNS_DIR",
        "show the runs in a folder in the browser, live",
        """
  ww-callbacks serve lightning_logs
  ww-callbacks serve runs --port 6007
  ww-callbacks serve runs/a -o report.html""",
    )
    parser.set_defaults(run=serve.run)
    parser.add_argument("folder", metavar="RUNS_DIR", type=Path, help="folder with the logs of runs")
    output = parser.add_argument_group("output")
    output.add_argument("--port", metavar="N", type=_port, default=0, help="port on 127.0.0.1 (default: a free one)")
    output.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="write the page to a file (.html) and exit, without a server"
    )
    _add_general(parser)


def _command(commands: _Commands, name: str, takes: str, does: str, examples: str) -> Parser:
    return commands.add_parser(
        name,
        prog=f"ww-callbacks {name}",
        takes=takes,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=f"{EXIT}\n\nexamples:{examples}",
    )


def _add_output(parser: Parser, formats: Iterable[str]) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=list(formats), help="default: from the file name of -o, otherwise table")
    output.add_argument("-o", "--output", metavar="FILE", type=Path, help="write to a file")


def _add_general(parser: Parser, quiet: str = "", level: int = logging.WARNING) -> None:
    """Add what all commands have.

    Args:
        parser: of the command.
        quiet: what ``--quiet`` does, if the command has it.
        level: of the log that is shown without ``--quiet`` and ``--verbose``.
    """
    parser.set_defaults(level=level)
    general = parser.add_argument_group("general")
    amount = general.add_mutually_exclusive_group()
    if quiet:
        amount.add_argument("-q", "--quiet", action="store_true", help=quiet)
    amount.add_argument("-v", "--verbose", action="store_true", help="show the log, and where an error comes from")
    _add_help(general)


def _add_help(general: Any) -> None:
    general.add_argument("-h", "--help", action="help", help="show this help and exit")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text}")
    return seconds


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to {2**16 - 1}, got {text}")
    return int(text)
