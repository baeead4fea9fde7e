"""Completion scripts of shells, written by shtab from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

SHELLS = ("bash", "zsh", "fish")
MISSING = "--print-completion needs shtab 1.9 or later: pip install 'ww_callbacks[cli]'"


class PrintCompletion(argparse.Action):
    """Prints the completion script of the shell that is named, and exits."""

    def __init__(self, option_strings: list[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, choices=SHELLS, **more)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Print it."""
        try:
            import shtab
        except ImportError:
            parser.error(MISSING)
        if values not in shtab.SUPPORTED_SHELLS:
            parser.error(MISSING)
        for action in _actions(parser):
            kind = _kind(action)
            if kind is not None:
                action.complete = shtab.FILE if kind == "file" else shtab.DIRECTORY  # type: ignore[attr-defined]
        print(shtab.complete(parser, values))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _kind(action: argparse.Action) -> str | None:
    """What a shell completes for an argument.

    Example:
        >>> [_kind(argparse.Action([], "x", metavar=name)) for name in ("FILE|DIR", "RUN.jsonl", "LOG_DIR", "N")]
        ['file', 'file', 'directory', None]
    """
    metavar = str(action.metavar)
    if "FILE" in metavar or metavar.endswith(".jsonl"):
        return "file"
    return "directory" if metavar.endswith("DIR") else None
