"""Writes the tables of options into ``docs/command_line.md``: ``python docs/option_tables.py``.

A table stands between ``<!-- options of COMMAND: GROUP, GROUP -->`` and ``<!-- end -->``. It has what ``--help`` says.
"""

import argparse
import re
from pathlib import Path

from ww_callbacks.cli.parser import make_parser

PAGE = Path(__file__).with_name("command_line.md")
_PLACE = re.compile(r"(<!-- options of (\S*): (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text: str) -> str:
    """The page with the tables of the parser as it is."""
    parsers = parsers_of_commands()
    return _PLACE.sub(lambda place: f"{place[1]}{_table(parsers[place[2]], place[3].split(', '))}{place[4]}", text)


def parsers_of_commands() -> dict[str, argparse.ArgumentParser]:
    """Name → parser of each command, and that of the options without a command as ``ww-callbacks``."""
    parser = make_parser()
    commands = next(each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return {"ww-callbacks": parser, **commands.choices}


def _table(parser: argparse.ArgumentParser, groups: list[str]) -> str:
    titles = {group.title: group for group in parser._action_groups}
    rows = [
        f"| {_names(action)} | {_escaped(parser._get_formatter()._expand_help(action))} |"
        for title in groups
        for action in titles[title]._group_actions
    ]
    return "\n".join(["| option | meaning |", "|---|---|", *rows, "", ""])


def _names(action: argparse.Action) -> str:
    value = action.metavar or ("\\|".join(map(str, action.choices)) if action.choices else "")
    more = " …" if action.nargs == "+" else ""
    return ", ".join(f"`{option}`" for option in action.option_strings) + (f" `{value}{more}`" if value else "")


def _escaped(text: str) -> str:
    return re.sub(r"([*|<_])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
