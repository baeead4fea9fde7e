import csv
import json

import pytest
from commands import run, run_here, save_model

import ww_callbacks as ww

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def files(tmp_path):
    return [save_model(tmp_path, f"m{i}.npz", seed=i, scale=1.3**i) for i in range(4)]


def test_models_are_named_after_their_files_or_by_the_user(files):
    done = run("compare", files[0], f"big={files[3]}", "--no-randomize", "--format", "csv")
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["model"] for row in rows] == ["m0", "big"]
    assert float(rows[1]["alpha"]) == ww.analyze(files[3], randomize=False).summary()["alpha"]


@pytest.mark.parametrize("quality", [["1", "2", "3", "4"], ["m3=4", "m1=2", "m0=1", "m2=3"]])
def test_quality_by_order_and_by_name_gives_correlations_and_a_conclusion(files, quality, capsys):
    assert run_here("compare", *files, "--no-randomize", "--quality", *quality) == 0
    text = capsys.readouterr().out
    assert "correlation with quality, n = 4" in text
    assert "scale and depth explain it" in text


def test_json_contains_what_the_table_shows(files, capsys):
    assert run_here("compare", *files, "--no-randomize", "--quality", "1", "2", "3", "4", "--format", "json") == 0
    read = json.loads(capsys.readouterr().out)
    assert [row["quality"] for row in read["models"]] == [1, 2, 3, 4]
    assert {each["metric"]: each["cause"] for each in read["correlations"]}["log_norm"] == "scale and depth"
    assert "n = 4 models" in read["conclusions"][0]


def test_analysis_options_reach_the_analysis(files, capsys):
    words = ["--split", "enc.fc1=2", "enc.fc2=60,40", "--fit", "TPL", "--seed", 3, "--precision", "float32"]
    assert run_here("compare", *files[:2], *words, "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    split = {"enc.fc1": 2, "enc.fc2": [60, 40]}
    expected = ww.compare({"m0": files[0], "m1": files[1]}, split=split, fit="TPL", seed=3, precision="float32")
    assert rows == expected.to_dicts()
    assert rows[0]["layers"] == 3  # the last part has too few eigenvalues to count


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["m0.npz", "m0.npz"], "two models are named 'm0'"),
        (["m0.npz", "x=missing.npz"], "missing.npz: no such file"),
        (["m0.npz", "m1.npz", "--quality", "1"], "a number for each of 2 models"),
        (["m0.npz", "m1.npz", "--quality", "m7=1"], "there is no model 'm7'"),
        (["m0.npz", "m1.npz", "--quality", "m0=good"], "NAME=NUMBER"),
        (["m0.npz", "m1.npz", "--quality", "m0=nan"], "finite"),
        (["m0.npz", "--split", "fc*=two"], "--split: expected PATTERN=NUMBER"),
        (["m0.npz", "--split", "fc*"], "--split: expected PATTERN=NUMBER"),
        (["m0.npz", "--split", "nothing=2"], "split: 'nothing' matches no layer"),
        (["m0.npz", "--fit", "line"], "--fit: unknown value 'line'; known: PL, TPL"),
        ([], "FILE"),
    ],
)
def test_invalid_arguments_give_exit_status_2_and_the_reason(tmp_path, monkeypatch, capsys, files, words, message):
    monkeypatch.chdir(tmp_path)
    assert run_here("compare", *words) == 2
    assert message in capsys.readouterr().err
