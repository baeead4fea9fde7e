"""A parser that explains wrong usage in one sentence, with the most similar name that exists."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ww_callbacks.checks import did_you_mean
from ww_callbacks.cli.status import ERROR
from ww_callbacks.printable import quoted, shown_text

_NUMBER = re.compile(r"-\d*\.?\d+(e[-+]?\d+)?$", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a sentence each.

    An option has to be written in full: an abbreviation that is clear today can be ambiguous in a later version.

    Args:
        prog: the words before the arguments.
        takes: the arguments that are no options, as the usage shows them.
        more: arguments of ``argparse.ArgumentParser``.

    Example:
        >>> parser = Parser(prog="tool", takes="FILE")
        >>> action = parser.add_argument("--output")
        >>> parser.parse_args(["--ouput=x"])
        Traceback (most recent call last):
        SystemExit: 2
    """

    def __init__(self, *, prog: str, takes: str, **more: Any) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} [OPTIONS] {takes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,  # it belongs to the last group of each parser
            **more,
        )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and refuse what is not known; an unknown option before a missing argument."""
        words = sys.argv[1:] if args is None else list(args)
        if not words and self._subparsers is not None:
            self.exit(ERROR, self.format_help())
        unknown = self._unknown_option(words)
        if unknown is not None:
            self.error(f"unexpected option {quoted(unknown)}{did_you_mean(_doubled(unknown), self._known_options())}")
        parsed, left = super().parse_known_args(words, namespace)
        if left:
            self.error(f"unexpected argument {quoted(left[0])}")
        return parsed, left

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with the status of wrong usage."""
        said = shown_text(message.removeprefix("argument "))
        self.exit(ERROR, f"ww-callbacks: error: {said}\nsee '{self.prog} --help'\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            option = f"{action.option_strings[-1]}: " if action.option_strings else ""
            what = "value" if option else "command"
            raise argparse.ArgumentError(None, option + unknown(what, str(value), list(map(str, action.choices))))

    def _known_options(self) -> list[str]:
        return list(self._option_string_actions)

    def _unknown_option(self, words: Iterable[str]) -> str | None:
        """The first word of this parser that is an option, but none of its own."""
        known = self._option_string_actions
        for word in words:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return None  # what follows is no option, or belongs to the parser of a command
            option = word.partition("=")[0]
            if not option.startswith("-") or option in ("-", *known) or " " in word or _NUMBER.match(word):
                continue
            has_value = not option.startswith("--") and option[:2] in known and f"-{option}" not in known
            if not has_value:
                return option
        return None


def unknown(what: str, word: str, known: Sequence[str]) -> str:
    """The message about a word that is none of the known ones.

    Example:
        >>> unknown("format", "htlm", ["json", "html"])
        "unknown format 'htlm'; did you mean 'html'? Known: json, html"
        >>> unknown("format", "xyz", ["json", "html"])
        "unknown format 'xyz'; known: json, html"
    """
    said = did_you_mean(word, known)
    return f"unknown {what} {quoted(word)}{said}{' Known' if said else '; known'}: {', '.join(known)}"


def _doubled(option: str) -> str:
    """An option of one hyphen and several letters is meant as one of two hyphens.

    Example:
        >>> _doubled("-output"), _doubled("-o"), _doubled("--ouput")
        ('--output', '-o', '--ouput')
    """
    return f"-{option}" if len(option) > 2 and not option.startswith("--") else option
