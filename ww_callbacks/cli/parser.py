"""The command-line parser."""

from __future__ import annotations

import argparse
from pathlib import Path

import ww_callbacks
from ww_callbacks.cli import analyze, compare, follow, serve, watch
from ww_callbacks.cli.options import add_analysis
from ww_callbacks.following.holding import MOST

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
    _add_follow(commands)
    _add_watch(commands)
    _add_serve(commands)
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


def _add_follow(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "follow",
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
    parser.add_argument("--log-dir", metavar="DIR", help="folder for the results (default: RUN_DIR/ww_follow)")
    parser.add_argument(
        "--checkpoints",
        metavar="PATTERN",
        nargs="+",
        action="extend",
        help="names of the checkpoints, '!PATTERN' to exclude (after RUN_DIR)",
    )
    parser.add_argument("--once", action="store_true", help="analyse what is there and exit")
    parser.add_argument(
        "--poll",
        metavar="S",
        type=_seconds,
        default=10.0,
        help="seconds between two looks at the folder (default: 10)",
    )
    parser.add_argument(
        "--hold",
        metavar="N",
        type=int,
        default=MOST,
        help=f"most checkpoints kept until read (default: {MOST})",
    )
    parser.add_argument(
        "--on-stop",
        metavar="CMD",
        help="shell command to run once when training should stop; WW_STOP_REASON says why",
    )
    parser.add_argument("--stop-file", metavar="FILE", help="file to write the reason to when training should stop")
    parser.add_argument(
        "--until-stop", action="store_true", help=f"exit with status {follow.STOPPED} when training should stop"
    )
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="analyse on a Dask cluster, whose workers see RUN_DIR under the same path"
    )
    parser.add_argument("--no-figures", dest="figures", action="store_false", help="draw no figures for TensorBoard")
    parser.add_argument("--updates", action="store_true", help="analyse the changes of the weights, too")
    add_analysis(parser, workers=1)


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


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "serve",
        "show the runs in a folder in the browser, live",
        """
  ww-callbacks serve lightning_logs
  ww-callbacks serve runs --port 6007
  ww-callbacks serve runs/a -o report.html""",
    )
    parser.set_defaults(run=serve.run)
    parser.add_argument("folder", metavar="RUNS_DIR", type=Path, help="folder with the logs of runs")
    parser.add_argument("--port", metavar="N", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write the page to a file instead")


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
