import signal
import subprocess
from dataclasses import replace

import pytest
from commands import COMMAND, Terminal, model, run, run_here

import ww_callbacks as ww
from ww_callbacks.outputs.jsonl import JsonlOutput
from ww_callbacks.report import Report

pytestmark = pytest.mark.timeout(120)


def report(step: int) -> Report:
    layers = ww.analyze(model(seed=step)).layers
    return Report(tuple(replace(layer, step=step) for layer in layers), step)


@pytest.fixture
def training(tmp_path):
    """The JSON lines of a run that has written two reports."""
    output = JsonlOutput(tmp_path / "ww_history.jsonl")
    for step in (0, 100):
        output.write(report(step), {}, float(step))
    yield output
    output.close()


def test_once_shows_the_latest_report(tmp_path, training):
    done = run("watch", tmp_path, "--once")
    assert done.returncode == 0
    assert done.stdout.strip() == str(report(100))
    (tmp_path / "new.jsonl").touch()
    assert run("watch", tmp_path / "new.jsonl", "--once").stdout == "no results yet\n"


def test_piped_output_has_one_line_per_report_until_interrupted(tmp_path, training):
    process = subprocess.Popen(
        [*COMMAND, "watch", str(training.path), "--interval", "0.1"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        training.write(report(200), {}, 200.0)
        lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stdout.read() == ""
    finally:
        process.kill()
        process.stdout.close()
    summary = report(200).summary()
    assert [line.split("  ")[0] for line in lines] == ["step 0", "step 100", "step 200"]
    assert f"alpha {summary['alpha']:.2f}" in lines[2]


def test_terminal_table_is_updated(tmp_path, training):
    with Terminal("watch", tmp_path, "--interval", "0.1") as terminal:
        terminal.wait_for("step 100")
        terminal.wait_for("enc.fc2")
        assert "mean alpha" in terminal.text
        training.write(report(300), {}, 300.0)
        terminal.wait_for("step 300")
        terminal.interrupt()
        assert terminal.wait(20) == 130
        assert "Traceback" not in terminal.text


def test_a_small_terminal_shows_the_worst_layers(tmp_path, training):
    with Terminal("watch", tmp_path, "--interval", "0.1", size=(6, 100)) as terminal:
        terminal.wait_for("and 1 layers more")
        terminal.interrupt()
        assert terminal.wait(20) == 130


def test_restarted_run_is_followed(tmp_path, training):
    with Terminal("watch", tmp_path, "--interval", "0.1") as terminal:
        terminal.wait_for("step 100")
        training.path.write_bytes(b"")
        terminal.wait_for("no results yet")
        with training.path.open("a") as file:
            again = JsonlOutput(tmp_path / "again.jsonl")
            again.write(report(7), {}, 7.0)
            again.close()
            file.write((tmp_path / "again.jsonl").read_text())
        terminal.wait_for("step 7,")
        terminal.interrupt()
        assert terminal.wait(20) == 130


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.jsonl"], "missing.jsonl"),
        (["bad.jsonl"], "line 1: not a report"),
        (["x", "--interval", "0"], "above 0"),
    ],
)
def test_invalid_arguments_give_exit_status_2_and_the_reason(tmp_path, monkeypatch, capsys, words, message):
    (tmp_path / "bad.jsonl").write_text("[]\n")
    monkeypatch.chdir(tmp_path)
    assert run_here("watch", *words) == 2
    assert message in capsys.readouterr().err
