"""How a command ends: its exit status and what it says, without a traceback."""

import os
import signal
import subprocess
import sys

import pytest
from commands import COMMAND, run_here, save_model

import ww_callbacks as ww
from ww_callbacks.cli.status import DONE, ERROR, FAILED, INTERRUPTED, STOPPED

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def fails_with(tmp_path, monkeypatch):
    """Let the analysis raise an error."""

    def fail(error):
        def analyze(*_, **__):
            raise error

        monkeypatch.setattr("ww_callbacks.cli.analyze.analyze", analyze)
        return save_model(tmp_path)

    return fail


def test_the_statuses_are_those_of_the_documentation():
    assert (DONE, FAILED, ERROR, STOPPED, INTERRUPTED) == (0, 1, 2, 3, 130)


@pytest.mark.parametrize("words", [["--help"], ["analyze", "--help"]])
def test_a_reader_that_has_gone_is_no_error_even_of_the_help(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *words], stdout=writer, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=100, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path):
    command = [*COMMAND, "analyze", save_model(tmp_path), "--no-randomize"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (2, "ww-callbacks: error: [Errno 28] No space left on device\n")


def test_a_broken_connection_is_not_taken_for_a_reader_that_has_gone(fails_with):
    file = fails_with(BrokenPipeError(32, "Broken pipe"))
    assert run_here("analyze", file) == 2


def test_an_interrupt_while_packages_are_loaded_is_one_line():
    script = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "scipy":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from ww_callbacks.cli import main
sys.exit(main(["--version"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "ww-callbacks: interrupted\n")


@pytest.mark.parametrize(("option", "note"), [("--verbose", "ww-callbacks: interrupted\n"), ("--quiet", "")])
def test_an_interrupt_of_a_follower_gives_the_same_status_and_quiet_says_no_notes(tmp_path, option, note):
    (tmp_path / "run").mkdir()
    follower = subprocess.Popen(
        [*COMMAND, "follow", tmp_path / "run", "--no-figures", option],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert follower.stderr.readline().startswith("ww-callbacks: no checkpoints in ")
        follower.send_signal(signal.SIGINT)
        assert follower.communicate(timeout=60) == ("", note)
        assert follower.returncode == 130
    finally:
        follower.kill()
        follower.communicate()


def test_an_unexpected_error_is_shown_with_its_place_and_is_an_error(fails_with, capsys):
    assert run_here("analyze", fails_with(ZeroDivisionError("of a fault"))) == 2
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert told.endswith("ww-callbacks: error: unexpected ZeroDivisionError: of a fault; please report it\n")


def test_verbose_shows_where_an_expected_error_comes_from(tmp_path, capsys):
    (tmp_path / "text.pt").write_text("hello")
    assert run_here("analyze", tmp_path / "text.pt", "--verbose") == 2
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert "text.pt: not a weights file" in told.splitlines()[-1]
    assert run_here("analyze", tmp_path / "text.pt") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_colours_follow_the_environment_and_a_pipe_gets_all_columns(tmp_path, monkeypatch, capsys):
    pytest.importorskip("rich")
    words = ["analyze", save_model(tmp_path), "--no-randomize"]
    report = ww.analyze(words[1], randomize=False)

    def printed(**environment):
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.setenv(name, environment.get(name, ""))
        assert run_here(*words) == 0
        told = capsys.readouterr()
        assert told.err == ""
        return told.out

    monkeypatch.setenv("COLUMNS", "40")
    assert printed() == "\n".join([str(report), *map(str, report.findings), ""])
    coloured = printed(FORCE_COLOR="1")
    assert "\x1b[2m" in coloured or "\x1b[33m" in coloured
    assert "stable rank" in coloured
    assert "\x1b[3" not in printed(FORCE_COLOR="1", NO_COLOR="1")
    assert "\x1b" not in printed(NO_COLOR="1")
