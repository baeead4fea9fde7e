"""Input that cannot be used is one sentence on standard error and status 2, before any work is done."""

import os

import pytest
from commands import run_here, save_model

from ww_callbacks.outputs.jsonl import FILE_NAME

NOT_THERE = "no such file or directory"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with inputs of each kind, as the current one."""
    save_model(tmp_path)
    for name in ("empty.npz", "empty.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "bare").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("analyze modle.npz", f"modle.npz: {NOT_THERE}; did you mean 'model.npz'?"),
        ("analyze gone/model.npz", f"gone/model.npz: {NOT_THERE}; there is no folder 'gone'"),
        ("analyze zzz", f"zzz: {NOT_THERE}"),
        ("analyze model.npz/zzz", f"model.npz/zzz: {NOT_THERE}; there is no folder 'model.npz'"),
        ("analyze empty.npz", "empty.npz: an empty file"),
        ("analyze empty.safetensors", "empty.safetensors: truncated"),
        ("analyze text.pt", "text.pt: not a weights file"),
        ("analyze bare", "bare: no weights file in this folder"),
        ("analyze other", "other: no weights file in this folder, which holds ['notes.txt']"),
        ("analyze pipe", "pipe: neither a file nor a folder"),
        ("analyze loop", "loop: cannot be read: [Errno 40] Too many levels of symbolic links"),
        ("analyze model.npz --layers zz*", "layers: 'zz*' matches no layer; the layers are ['enc.fc1', "),
        ("analyze model.npz --baseline bsae.npz", f"bsae.npz: {NOT_THERE}"),
        ("analyze model.npz --baseline bare", "bare: no weights file in this folder"),
        ("analyze model.npz -o report.xyz", "report.xyz: unknown format '.xyz'; known: .txt, .json, .csv, .html"),
        ("analyze model.npz -o a.jsn", "a.jsn: unknown format '.jsn'; did you mean '.json'? Known: .txt, .json, "),
        ("analyze model.npz -o bare", "bare: cannot be written: a folder"),
        ("analyze model.npz -o gone/a.html", "gone/a.html: cannot be written: its folder does not exist"),
        ("compare model.npz modle.npz", f"modle.npz: {NOT_THERE}; did you mean 'model.npz'?"),
        ("compare model.npz empty.npz", "empty.npz: an empty file"),
        ("compare model.npz other", "other: no weights file in this folder"),
        ("compare model.npz --layers zz*", "layers: 'zz*' matches no layer"),
        ("compare model.npz -o report.xyz", "report.xyz: unknown format '.xyz'; known: .txt, .json, .csv, .html"),
        ("follow gone --once", "gone is not a folder"),
        ("follow model.npz --once", "model.npz is not a folder"),
        ("follow bare --once --no-figures", "run_dir: no checkpoints in "),
        ("follow other --once --no-figures", "run_dir: no checkpoints in "),
        ("watch gone.jsonl", f"gone.jsonl: {NOT_THERE}; a training with jsonl=True writes it"),
        ("watch bare --once", f"bare/{FILE_NAME}: {NOT_THERE}; a training with jsonl=True writes it"),
        ("watch model.npz --once", "model.npz, line 1: not a report"),
        ("watch pipe --once", "pipe: not a regular file"),
        ("watch loop --once", "loop: Too many levels of symbolic links"),
        ("serve gone", "gone: there is no folder of that name"),
        ("serve model.npz", "model.npz: there is no folder of that name"),
        ("serve bare -o page.html", "bare: no run with results of ww_callbacks in this folder"),
        ("serve gone -o page.pdf", "page.pdf: unknown format '.pdf'; known: .html"),
        ("serve gone -o no/page.html", "no/page.html: cannot be written: its folder does not exist"),
    ],
)
def test_the_sentence_names_the_file_and_the_cause(place, capsys, words, message):
    assert run_here(*words.split()) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.startswith("ww-callbacks: error: ")
    assert (told.err.count("\n"), told.out) == (1, "")
    assert not [each for each in os.listdir() if each.startswith(("report", "page"))]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes every file")
@pytest.mark.parametrize("words", ["analyze model.npz", "watch model.npz --once", "analyze text.pt -o model.npz"])
def test_a_file_without_permission(place, capsys, words):
    (place / "model.npz").chmod(0)
    assert run_here(*words.split()) == 2
    assert "ermission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["analyze {}/m.npz", "compare model.npz x={}/m.npz", "follow {}/run --once --log-dir x"]
)
def test_a_url_that_no_protocol_reads(place, capsys, words):
    pytest.importorskip("fsspec")
    assert run_here(*words.format("nowhere://host").split()) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "nowhere://host" in told


def test_the_format_that_is_asked_for_comes_before_the_name_of_the_file(place):
    assert run_here("analyze", "model.npz", "--no-randomize", "--format", "json", "-o", "report.xyz") == 0
    assert (place / "report.xyz").read_text().startswith("{")
    assert run_here("analyze", "model.npz", "--no-randomize", "-o", "table") == 0
    assert (place / "table").read_text().startswith("layer ")


def test_watch_proposes_the_files_of_runs(place, capsys):
    for name in ("b", "a"):
        (place / "runs" / name).mkdir(parents=True)
        (place / "runs" / name / FILE_NAME).touch()
    assert run_here("watch", "runs") == 2
    assert capsys.readouterr().err.endswith(f"did you mean 'runs/a/{FILE_NAME}' or 'runs/b/{FILE_NAME}'?\n")
    (place / "run.jsonl").touch()
    assert run_here("watch", "rnu.jsonl") == 2
    assert capsys.readouterr().err.endswith("did you mean 'run.jsonl'?\n")
