"""The command-line parser."""

from __future__ import annotations

import argparse
from pathlib import Path

import ww_callbacks
from ww_callbacks.cli import analyze, compare, watch
from ww_callbacks.cli.options import add_analysis

EXIT = "exit status: 0 all went well, 1 a layer failed or none could be analysed, 2 wrong usage or an unreadable file"
_ENDINGS = (
    ".safetensors, torch's .pt .pth .ckpt .bin, .npz, .gguf, .onnx, flax's .msgpack, Keras's .keras .weights.h5 .h5"
)
FILES = f"weights file ({_ENDINGS}) or folder, by its path or URL"


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command; its result has the function to call as ``run``."""
    parser = argparse.ArgumentParser(
        prog="ww-callbacks",
        description="Spectra of the layers of finished and of training models.",
        epilog=f"{EXIT}. 'ww-callbacks COMMAND --help' shows the options of a command, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"ww-callbacks {ww_callbacks.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_analyze(commands)
    _add_compare(commands)
    _add_watch(commands)
    return parser


def _add_analyze(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "analyze",
        "analyse the layers of a weights file",
        """
  ww-callbacks analyze model.safetensors
  ww-callbacks analyze checkpoints/last.ckpt --layers 'encoder.*' '!*.pos_embed'
  ww-callbacks analyze tuned.pt --baseline base.pt -o report.html
  ww-callbacks analyze model.npz --workers 2 --format json | jq .summary.alpha""",
    )
    parser.set_defaults(run=analyze.run)
    parser.add_argument("file", metavar="FILE|DIR", help=FILES)
    parser.add_argument("--baseline", metavar="FILE", help="model to compare with, layer by layer")
    add_analysis(parser)
    _add_output(parser, analyze.WRITERS)


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "compare",
        "compare several models",
        """
  ww-callbacks compare small.pt medium.pt large.pt
  ww-callbacks compare r20=resnet20.th r32=resnet32.th r44=resnet44.th --quality r20=8.27 r32=7.37 r44=6.90""",
    )
    parser.set_defaults(run=compare.run)
    parser.add_argument(
        "models", metavar="[NAME=]FILE", nargs="+", help=f"{FILES}; the default name is that of the file"
    )
    parser.add_argument(
        "--quality",
        metavar="NAME=NUMBER",
        nargs="+",
        action="extend",
        help="accuracy or error of each model, to correlate with the metrics and their controls",
    )
    add_analysis(parser)
    _add_output(parser, compare.WRITERS)


def _add_watch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "watch",
        "follow a running training from its JSON lines file (jsonl=True)",
        """
  ww-callbacks watch runs/a/ww_history.jsonl
  ww-callbacks watch runs/a --once""",
    )
    parser.set_defaults(run=watch.run)
    parser.add_argument("file", metavar="RUN.jsonl", type=Path, help="file of a run, or its folder")
    parser.add_argument("--once", action="store_true", help="show the current state and exit")
    parser.add_argument(
        "--interval", type=_seconds, default=1.0, help="seconds between two reads of the file (default: 1)"
    )


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, does: str, examples: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=f"examples:{examples}\n\n{EXIT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_output(parser: argparse.ArgumentParser, writers: object) -> None:
    formats = list(writers)  # type: ignore[call-overload]
    parser.add_argument("--format", choices=formats, help="default: from the file name of -o, otherwise table")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write to a file")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text}")
    return seconds
