"""The options that docs/command_line.md lists are those of the parser."""

import importlib.util
import re
from pathlib import Path

from ww_callbacks.cli import status

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "command_line.md").read_text(encoding="utf-8")


def option_tables():
    spec = importlib.util.spec_from_file_location("option_tables", DOCS / "option_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_parser():
    assert option_tables().with_tables(TEXT) == TEXT, "run: python docs/option_tables.py"


def test_every_group_of_options_has_a_table():
    tables = re.findall(r"<!-- options of (\S*): (.*?) -->", TEXT)
    shown = {(command, title) for command, titles in tables for title in titles.split(", ")}
    everywhere = {"layers", "analysis", "general"}
    for command, parser in option_tables().parsers_of_commands().items():
        groups = {group.title for group in parser._action_groups if any(a.option_strings for a in group._group_actions)}
        assert {title for title in groups - everywhere if (command, title) not in shown} == set(), command
    assert {("analyze", title) for title in everywhere} <= shown


def test_every_command_and_every_status_is_described():
    for command in option_tables().parsers_of_commands():
        assert command == "ww-callbacks" or f"\n## {command}\n" in TEXT
        assert command == "ww-callbacks" or f"$ ww-callbacks {command} " in TEXT
    documented = set(map(int, re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)))
    assert {status.DONE, status.FAILED, status.ERROR, status.STOPPED, status.INTERRUPTED} <= documented
