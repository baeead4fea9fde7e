"""Runs the code of the documentation: ``python -m pytest -p docs.run_code docs README.md CONTRIBUTING.md``.

Each page is one program. Its blocks share a namespace and run in a separate empty folder. A comment ``clear-namespace``
begins a new program. A block of ``console`` holds commands after ``$`` and what they print, where ``...`` stands for
anything.
"""

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import ClearNamespaceParser, CodeBlockParser, PythonCodeBlockParser, SkipParser

_COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before, folder = Path.cwd(), tmp_path_factory.mktemp("page")
    os.chdir(folder)
    yield folder
    os.chdir(before)


def run_console(example: Example) -> str | None:
    """Run the commands of a block; returns what differs."""
    for command, expected in _COMMAND.findall(example.parsed):
        printed = output_of(command)
        if not doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS):
            return f"$ {command}\nexpected:\n{expected}\nprinted:\n{printed}"
    return None


def output_of(command: str) -> str:
    """What a shell command prints, with ``ww-callbacks`` as it is in this environment."""
    ours = f'ww-callbacks() {{ "{sys.executable}" -m ww_callbacks "$@"; }}; '
    return subprocess.run(
        ["bash", "-c", ours + command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=100,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "FORCE_COLOR"},
    ).stdout


pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser("console", run_console),
        SkipParser(),
        ClearNamespaceParser(),
    ],
    path=str(Path(__file__).resolve().parents[1]),
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md"],
    fixtures=["empty_folder"],
).pytest()
