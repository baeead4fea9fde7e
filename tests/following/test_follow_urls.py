"""Runs at URLs are followed as those in folders."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ww_callbacks as ww

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def bucket(tmp_path):
    """A folder of the file system in memory, and its URL."""
    files, path = fsspec.filesystem("memory"), f"/bucket/{tmp_path.name}"
    yield files, f"memory:/{path}"
    if files.exists(path):
        files.rm(path, recursive=True)


@pytest.fixture
def run(tmp_path):
    """A run whose checkpoints have three formats."""
    torch, save_file = pytest.importorskip("torch"), pytest.importorskip("safetensors.numpy").save_file
    rng, folder = np.random.default_rng(0), tmp_path / "run"
    folder.mkdir()
    arrays = {f"fc{number}.weight": rng.standard_normal((80, 50 + number)).astype("f4") for number in (1, 2)}
    for step in (1, 2, 3, 4):
        arrays["fc1.weight"] += (0.1 * np.outer(rng.standard_normal(80), rng.standard_normal(51))).astype("f4")
        if step == 1:
            np.savez(folder / "step-1.npz", **arrays)
        elif step == 2:
            state = {name: torch.from_numpy(array) for name, array in arrays.items()}
            torch.save({"state_dict": state, "global_step": 2}, folder / "last.ckpt")
        else:
            (folder / f"checkpoint-{step}").mkdir()
            save_file(arrays, folder / f"checkpoint-{step}" / "model.safetensors")
            (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


def follow(place, log_dir, **arguments):
    return ww.follow(place, log_dir=log_dir, once=True, figures=False, updates=True, **arguments)


def rows(history):
    return [layer.to_dict() for report in history for layer in report]


def test_a_run_at_a_url_gives_the_results_of_one_in_a_folder(tmp_path, bucket, run):
    files, url = bucket
    files.put(str(run), url, recursive=True)
    here, there = follow(run, tmp_path / "here"), follow(url, tmp_path / "there")
    assert there.steps == [1, 2, 3, 4]
    assert rows(there) == rows(here)
    assert there[-1]["fc1"].update_since == 3
    assert sorted(path.rpartition("/")[2] for path in files.ls(url, detail=False)) == sorted(
        path.name for path in run.iterdir() if path.name != ".ww_follow"
    )
    assert follow(url + "/", tmp_path / "there").steps == [1, 2, 3, 4]


def test_the_workers_of_an_executor_read_from_the_url(tmp_path, bucket, run):
    files, url = bucket
    files.put(str(run), url, recursive=True)
    with ThreadPoolExecutor(2) as executor:
        history = follow(url, tmp_path / "results", executor=executor)
    assert history.steps == [1, 2, 3, 4]
    assert [layer.status for report in history for layer in report] == ["ok"] * 8
    assert history[-1]["fc1"].update_since == 3


def test_a_server_that_is_away_for_a_while_is_waited_for(tmp_path, bucket, run, monkeypatch, caplog):
    files, url = bucket
    answers = {name: getattr(type(files), name) for name in ("ls", "info")}
    asked = {"ls": 0, "info": 0}

    def flaky(name, away):
        def answer(self, *args, **kwargs):
            asked[name] += 1
            if asked[name] in away:
                raise OSError("the server is away")
            return answers[name](self, *args, **kwargs)

        return answer

    def stop_at_the_end(report):
        if report.step == 4:
            raise KeyboardInterrupt

    files.put(str(run), url, recursive=True)
    monkeypatch.setattr(type(files), "ls", flaky("ls", (2, 3, 9, 14)))
    monkeypatch.setattr(type(files), "info", flaky("info", (2, 7, 15, 24, 36, 51)))
    arguments = {"poll": 0.01, "figures": False, "on_result": stop_at_the_end}
    with pytest.warns(RuntimeWarning, match="cannot follow .* for now, .*: .*the server is away"):
        history = ww.follow(url, log_dir=tmp_path / "results", **arguments)
    assert history.steps == [1, 2, 3, 4]
    assert asked["ls"] >= 14
    assert asked["info"] >= 51
    assert "left out" not in caplog.text
    assert "gone" not in caplog.text


def test_results_need_a_folder_of_this_machine(tmp_path, bucket):
    _, url = bucket
    with pytest.raises(
        ValueError, match="log_dir: expected a folder of this machine for the results of memory://bucket"
    ):
        ww.follow(url, once=True)
    with pytest.raises(ValueError, match="log_dir: expected a folder of this machine"):
        ww.follow(tmp_path, log_dir="s3://bucket/results", once=True)
