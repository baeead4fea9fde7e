"""Tables in a narrow terminal say which columns they leave out; a pipe gets all."""

import re

import numpy as np
import pytest
from commands import Terminal, save_model

import ww_callbacks as ww
from ww_callbacks.cli.tables import fitting
from ww_callbacks.outputs.jsonl import JsonlOutput
from ww_callbacks.report.table import layer_table

pytestmark = pytest.mark.timeout(120)


def plain(text):
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", text).split("\n")


@pytest.fixture
def run_folder(tmp_path):
    """A run with one report in JSON lines."""
    output = JsonlOutput(tmp_path / "ww_history.jsonl")
    weights = {"fc": np.random.default_rng(0).standard_normal((90, 60))}
    output.write(ww.Report(tuple(ww.analyze(weights)), step=5), {}, 1.0)
    output.close()
    return tmp_path


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_what_is_shown_and_what_is_left_out_are_all_columns(width):
    rng = np.random.default_rng(0)
    base = {f"fc{i}": rng.standard_normal((90, 60)) for i in range(3)}
    moved = {name: array + 0.1 * rng.standard_normal(array.shape) for name, array in base.items()}
    lines = layer_table(ww.analyze(moved, baseline=base).to_dicts())
    fitted = fitting(lines, width)
    shown = list(fitted.lines[0])
    empty = [column[0] for column in zip(*lines, strict=True) if set(column[1:]) == {"-"}]
    assert len(shown) + len(fitted.left_out) + fitted.num_empty == len(lines[0])
    assert set(lines[0]) - set(shown) - set(empty) == set(fitted.left_out)
    assert {"layer", "alpha"} <= set(shown)
    if fitted.left_out:
        assert fitted.note[0].startswith(f"left out: {', '.join(fitted.left_out)}")
    rows = [sum(len(cell) + 2 for cell in line) for line in fitted.lines]
    assert width < 60 or max(rows) <= width + 2 * len(shown)


def test_a_report_in_a_narrow_terminal(tmp_path):
    with Terminal("analyze", save_model(tmp_path), size=(30, 60)) as terminal:
        assert terminal.wait() == 0
    text = " ".join(" ".join(plain(terminal.text)).split())
    said = re.search(r"left out: ([^;]*); a wider terminal", text)
    header = next(line for line in plain(terminal.text) if line.startswith("layer "))
    assert "stable rank" in said[1]
    assert "stable rank" not in header
    assert "alpha" in header


def test_a_comparison_in_a_narrow_terminal(tmp_path):
    models = [save_model(tmp_path, f"m{seed}.npz", seed=seed) for seed in range(3)]
    words = ["--no-randomize", "--quiet", "--quality", 1, 2, 3]
    with Terminal("compare", *models, *words, size=(40, 80)) as terminal:
        assert terminal.wait() == 0
    lines = plain(terminal.text)
    tables = [line for line in lines if line.startswith(("model ", "metric ", "m0 "))]
    assert all(len(line) <= 80 for line in tables)
    assert "quality" in tables[0]
    assert "columns without values; a wider terminal" in "\n".join(lines)


def test_a_wide_terminal_leaves_nothing_out(tmp_path):
    with Terminal("analyze", save_model(tmp_path), "--quiet", size=(30, 200)) as terminal:
        assert terminal.wait() == 0
    assert "left out" not in terminal.text


@pytest.mark.parametrize("once", [True, False])
def test_a_watched_run_in_a_narrow_terminal(run_folder, once):
    with Terminal("watch", run_folder, *(["--once"] if once else []), size=(30, 60)) as terminal:
        terminal.wait_for("left out: ")
        assert "step 5" in terminal.text
        if not once:
            terminal.interrupt()
        assert terminal.wait(20) == (0 if once else 130)
