"""Completion in the shells themselves; those that are not installed are skipped."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest
from commands import run_here

pytestmark = pytest.mark.timeout(120)

CASES = [
    ("ww-callbacks ana", {"analyze"}),
    ("ww-callbacks analyze --form", {"--format"}),
    ("ww-callbacks analyze --format h", {"html"}),
    ("ww-callbacks compare --interval b", {"bootstrap"}),
    ("ww-callbacks analyze mod", {"model.npz"}),
    ("ww-callbacks follow run", {"runs"}),
    ("ww-callbacks serve run", {"runs"}),
]
BASH = """
source ./script
words=($1)
COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1)) COMP_LINE=$1 COMP_POINT=${#1}
function=$(complete -p ww-callbacks | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function ww-callbacks "${words[-1]}" "${words[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to complete names in."""
    (tmp_path / "model.npz").touch()
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_script(shell, folder, capsys):
    pytest.importorskip("shtab")
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    assert run_here("--print-completion", shell) == 0
    (folder / "script").write_text(capsys.readouterr().out)


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL)


def test_bash_completes_commands_options_values_files_and_folders(folder, capsys):
    write_script("bash", folder, capsys)
    for line, expected in CASES:
        done = output_of("bash", "--norc", "--noprofile", "-c", BASH, "bash", line)
        assert (set(done.stdout.split()), done.stderr) == (expected, ""), line


def test_fish_completes_commands_options_values_files_and_folders(folder, capsys, monkeypatch):
    write_script("fish", folder, capsys)
    monkeypatch.setenv("HOME", str(folder))
    for line, expected in CASES:
        done = output_of("fish", "--no-config", "-c", 'source ./script; complete -C "$argv"', line)
        found = {each.split("\t")[0].rstrip("/") for each in done.stdout.splitlines()}
        assert found == expected, (line, done.stderr)


def test_zsh_completes_commands_options_values_files_and_folders(folder, capsys):
    write_script("zsh", folder, capsys)
    (folder / "script").rename(folder / "_ww-callbacks")
    master, slave = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "200", "PS1": "> "},
    )
    os.close(slave)

    def says(typed, expected):
        os.write(master, typed.encode())
        text, end = "", time.monotonic() + 30
        while expected not in text and time.monotonic() < end:
            if select.select([master], [], [], 0.2)[0]:
                text += os.read(master, 65536).decode(errors="replace")
        assert expected in text, (typed, text)

    try:
        says("fpath+=$PWD; autoload -U compinit; compinit -u -d dump; echo rea''dy\n", "ready")
        for line, expected in CASES:
            (word,) = expected
            says(f"{line}\t", f"{line.rpartition(' ')[0]} {word}")
            says("\x15", "")
    finally:
        shell.kill()
        shell.wait(20)
        os.close(master)


def test_without_shtab_it_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert run_here("--print-completion", "zsh") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "--print-completion needs shtab 1.9 or later: pip install 'ww_callbacks[cli]'" in told.err
