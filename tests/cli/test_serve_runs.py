import json
import signal
import socket
import subprocess
import urllib.request

import numpy as np
import pytest
from commands import COMMAND, run_here

import ww_callbacks as ww
from ww_callbacks.outputs.jsonl import JsonlOutput

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def runs(tmp_path):
    """A folder with one run of one report."""
    output = JsonlOutput(tmp_path / "runs" / "a" / "ww_history.jsonl")
    weights = {"fc": np.random.default_rng(0).standard_normal((60, 50))}
    output.write(ww.Report(tuple(ww.analyze(weights)), step=5), {}, 1.0)
    output.close()
    return tmp_path / "runs"


def test_it_prints_its_address_and_answers_until_interrupted(runs):
    process = subprocess.Popen(
        [*COMMAND, "serve", str(runs)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address, _, says = process.stdout.readline().partition("  ")
        assert says == f"shows the runs in {runs}; Ctrl-C ends it\n"
        with urllib.request.urlopen(f"{address}api/runs", timeout=30) as answer:
            assert [run["id"] for run in json.load(answer)["runs"]] == ["a"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == "ww-callbacks: interrupted\n"
    finally:
        process.kill()
        process.communicate()


def test_it_writes_one_file(runs, tmp_path):
    assert run_here("serve", runs, "-o", tmp_path / "page.html") == 0
    page = (tmp_path / "page.html").read_text()
    assert '"steps":[5]' in page
    assert page.startswith("<!doctype html>")


def test_a_folder_without_runs_is_an_error(tmp_path, capsys):
    assert run_here("serve", tmp_path, "-o", tmp_path / "page.html") == 2
    assert capsys.readouterr().err.endswith("no run with results of ww_callbacks in this folder\n")
    assert not (tmp_path / "page.html").exists()
    assert run_here("serve", tmp_path / "nothing") == 2
    assert "there is no folder of that name" in capsys.readouterr().err


def test_a_port_in_use_is_an_error(runs, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_here("serve", runs, "--port", str(port)) == 2
    assert f"port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err
