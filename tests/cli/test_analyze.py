import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import COMMAND, Terminal, model, run, run_here, save_model

import ww_callbacks as ww
from ww_callbacks.report import COLUMNS

pytestmark = pytest.mark.timeout(120)


def test_piped_output_is_only_the_table_of_the_report(tmp_path):
    done = run("analyze", save_model(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    report = ww.analyze(tmp_path / "model.npz")
    assert done.stdout.splitlines() == [*str(report).splitlines(), *map(str, report.findings)]


def test_the_entry_point_is_installed():
    command = Path(sys.executable).with_name("ww-callbacks")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"ww-callbacks {ww.__version__}\n"


def test_json_and_csv_contain_every_column(tmp_path, capsys):
    file = save_model(tmp_path)
    report = ww.analyze(file)
    assert run_here("analyze", file, "--format", "json") == 0
    read = json.loads(capsys.readouterr().out)
    assert ww.Report.from_dicts(read["layers"]) == report
    assert read["summary"] == report.summary()
    assert run_here("analyze", file, "--format", "csv") == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert float(rows[1]["alpha"]) == report["enc.fc2"].alpha
    assert rows[2]["alpha"] == ""


def test_name_of_the_output_file_determines_the_format(tmp_path, capsys):
    file = save_model(tmp_path)
    for name, beginning in (("a.json", "{"), ("a.csv", "name,kind"), ("a.txt", "layer ")):
        assert run_here("analyze", file, "--no-randomize", "-o", tmp_path / name) == 0
        assert capsys.readouterr().out == ""
        assert (tmp_path / name).read_text().startswith(beginning)


def test_a_result_that_cannot_be_written_is_not_lost(tmp_path, capsys, monkeypatch):
    """The folder of the file is removed during the analysis."""
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.setattr("ww_callbacks.cli.analyze.analyze", lambda *_, **__: folder.rmdir() or ww.Report(()))
    assert run_here("analyze", save_model(tmp_path), "--output", folder / "table.csv") == 2
    told = capsys.readouterr()
    assert told.out.startswith("name,kind,")
    assert "table.csv: cannot be written, the result is on standard output: No such file or directory" in told.err


def test_settings_reach_the_analysis(tmp_path, capsys):
    file = save_model(tmp_path)
    words = ["--split", "enc.fc1=2", "--interval", "bootstrap", "--conv-scale", "paper", "--seed", 5]
    assert run_here("analyze", file, *words, "--format", "json") == 0
    read = ww.Report.from_dicts(json.loads(capsys.readouterr().out)["layers"])
    assert read == ww.analyze(file, split={"enc.fc1": 2}, interval="bootstrap", conv_scale="paper", seed=5)


def test_options_reach_the_analysis(tmp_path, capsys):
    file = save_model(tmp_path)
    assert (
        run_here("analyze", file, "--layers", "enc.*", "!*2", "--no-randomize", "--workers", 1, "--format", "json") == 0
    )
    layers = {layer["name"]: layer for layer in json.loads(capsys.readouterr().out)["layers"]}
    assert layers["enc.fc1"]["num_traps"] is None
    assert layers["enc.fc2"]["reason"] == "excluded by layers="
    assert layers["enc.fc1"]["alpha"] == pytest.approx(ww.analyze(file)["enc.fc1"].alpha, rel=1e-6)


def test_baseline_shows_what_changed(tmp_path):
    now, before = save_model(tmp_path, "now.npz", scale=3.0), save_model(tmp_path, "before.npz")
    done = run("analyze", now, "--baseline", before)
    assert done.returncode == 0
    assert "head: has not moved" in done.stdout
    assert "median distance 2 over 3 layers" in done.stdout


def test_failed_layer_is_named_and_gives_exit_status_1(tmp_path, capsys):
    np.savez(tmp_path / "nan.npz", **model(), bad=np.full((60, 60), np.nan))
    assert run_here("analyze", tmp_path / "nan.npz") == 1
    printed = capsys.readouterr()
    assert "layer 'bad' failed: non-finite weights" in printed.err
    assert "enc.fc1" in printed.out
    np.savez(tmp_path / "none.npz", bias=np.ones(5))
    assert run_here("analyze", tmp_path / "none.npz") == 1
    assert capsys.readouterr().err == "ww-callbacks: no layer could be analysed\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["analyze", "missing.pt"], "missing.pt: no such file"),
        (["analyze", "text.pt"], "text.pt: not a weights file"),
        (["analyze", "empty.npz"], "empty.npz: an empty file"),
        (["analyze", "model.npz", "--layers", "zz*"], "'zz*' matches no layer"),
        (["analyze", "model.npz", "--baseline", "missing.npz"], "missing.npz: no such file"),
        (["analyze", "model.npz", "-o", "no/such/folder.json"], "its folder does not exist"),
        (["analyze", "model.npz", "--workers", "-1"], "workers"),
        (["analyze", "model.npz", "--workers", "two"], "--workers"),
        (["analyze", "model.npz", "--format", "xml"], "--format"),
        (["analyze"], "FILE|DIR"),
        (["look"], "'look'"),
        ([], "COMMAND"),
    ],
)
def test_invalid_arguments_give_exit_status_2_and_the_reason(tmp_path, monkeypatch, capsys, words, message):
    save_model(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.npz").touch()
    monkeypatch.chdir(tmp_path)
    assert run_here(*words) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_error_in_a_separate_process_is_one_line(tmp_path):
    done = run("analyze", tmp_path / "missing.pt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [f"ww-callbacks: error: {tmp_path}/missing.pt: no such file or directory"]


def test_closed_pipe_is_not_an_error(tmp_path):
    done = subprocess.run(
        f"{' '.join(COMMAND)} analyze {save_model(tmp_path)} --format csv | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.startswith("name,kind")
    assert done.stderr == ""


def test_every_help_shows_examples(capsys):
    for command in ("analyze", "compare", "follow", "watch", "serve"):
        assert run_here(command, "--help") == 0
        text = capsys.readouterr().out
        assert f"examples:\n  ww-callbacks {command} " in text
        assert "exit status:\n  0 all went well" in text


def test_table_is_plain_and_without_a_bar_if_rich_is_missing(tmp_path):
    file, folder = save_model(tmp_path), tmp_path / "hidden"
    folder.mkdir()
    (folder / "rich.py").write_text("raise ImportError")
    script = "util.find_spec = lambda name, *rest, find=util.find_spec: find(name, *rest) if name != 'rich' else None"
    (folder / "sitecustomize.py").write_text(f"from importlib import util\n{script}\n")
    with Terminal("analyze", file, PYTHONPATH=str(folder)) as terminal:
        assert terminal.wait() == 0
    assert "\x1b[" not in terminal.text
    report = ww.analyze(file)
    assert terminal.text.replace("\r\n", "\n").split("\n")[:-1] == [
        *str(report).split("\n"),
        *map(str, report.findings),
    ]


def test_terminal_shows_a_bar_with_layer_and_time_then_a_coloured_table(tmp_path):
    rng = np.random.default_rng(0)  # each layer takes longer than a redraw of the bar
    np.savez(tmp_path / "large.npz", **{f"layer{i}": rng.normal(size=(1300, 1200)) for i in range(4)})
    with Terminal("analyze", tmp_path / "large.npz") as terminal:
        assert terminal.wait() == 0
    bar, table = terminal.text.split("95 % interval")
    assert "analysing" in bar
    assert "layer1" in bar
    assert "0:00:" in bar or "-:--:--" in bar
    assert "%" in bar
    assert "\x1b[2m" in table  # dim, because a random layer has no tail
    assert "layer3" in table


def test_no_color_is_respected_and_columns_fit_the_terminal(tmp_path):
    with Terminal("analyze", save_model(tmp_path), NO_COLOR="1", size=(30, 60)) as terminal:
        assert terminal.wait() == 0
    assert not re.search(r"\x1b\[([\d;]*;)?3\d[;m]", terminal.text)
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", terminal.text).split("\n")
    table = [line for line in lines if line.startswith(("layer ", "enc."))]
    assert "alpha" in table[0]
    assert "kind" not in table[0]
    assert all(len(line.rstrip()) <= 60 for line in table)


@pytest.mark.skipif(not shutil.which("sleep"), reason="needs sleep")
def test_ctrl_c_ends_the_command_and_leaves_no_process(tmp_path):
    weights = np.random.default_rng(0).normal(size=(900, 800))
    np.savez(tmp_path / "large.npz", **{f"layer{i}": weights for i in range(60)})
    with Terminal("analyze", tmp_path / "large.npz", "--workers", 1) as terminal:
        terminal.wait_for("layer")
        group = os.getpgid(terminal.process.pid)
        os.killpg(group, signal.SIGINT)
        assert terminal.wait(20) == 130
        assert "Traceback" not in terminal.text
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)


def test_an_adapter_alone_and_with_its_base(tmp_path, capsys):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    rng, folder = np.random.default_rng(0), tmp_path / "adapter"
    folder.mkdir()
    factors = {"A": rng.standard_normal((4, 60)), "B": rng.standard_normal((120, 4))}
    save_file(
        {f"base_model.model.enc.fc1.lora_{part}.weight": values for part, values in factors.items()},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    assert run_here("analyze", folder) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("enc.fc1"))
    assert line.split()[1] == "LoRA"
    assert line.split()[-2:] == ["4", "4"]
    assert run_here("analyze", folder, "--baseline", save_model(tmp_path), "-o", tmp_path / "report.html") == 0
    assert '"name":"lora_rank"' in (tmp_path / "report.html").read_text()
    assert run_here("analyze", folder, "-o", tmp_path / "alone.html") == 0
    assert '"name":"lora_used"' in (tmp_path / "alone.html").read_text()


def test_findings_are_lines_below_the_table_and_values_in_json(tmp_path, capsys):
    weights = np.random.default_rng(0).standard_normal((90, 60))
    weights[3, 4] = 60.0
    np.savez(tmp_path / "spiked.npz", fc=weights)
    assert run_here("analyze", tmp_path / "spiked.npz") == 0
    assert "ALARM: fc (" in capsys.readouterr().out
    assert run_here("analyze", tmp_path / "spiked.npz", "--format", "json") == 0
    findings = [ww.Finding.from_dict(each) for each in json.loads(capsys.readouterr().out)["findings"]]
    assert findings == list(ww.analyze(tmp_path / "spiked.npz").findings)
    assert findings[0].kind == "trap_elements"
