import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ww_callbacks as ww
from ww_callbacks.cli import main
from ww_callbacks.following.holding import FOLDER as KEPT
from ww_callbacks.following.ledger import Ledger


def weights(scale=1.0, rows=90):
    rng = np.random.default_rng(7)
    return {
        "fc1.weight": rng.standard_normal((rows, 60)).astype("float32") * np.float32(scale),
        "fc2.weight": rng.standard_normal((60, 70)).astype("float32"),
    }


def save(folder, step, arrays=None, at=None):
    """A checkpoint; its time, if given, is so many seconds after 2001."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step}.npz"
    np.savez(folder / ".draft.npz", **(weights(1 + step / 100) if arrays is None else arrays))
    os.replace(folder / ".draft.npz", path)
    if at is not None:
        os.utime(path, (10**9 + at, 10**9 + at))
    return path


def follow(folder, **arguments):
    return ww.follow(folder, once=True, figures=False, **arguments)


def lines(folder):
    return [json.loads(line) for line in (folder / "ww_follow" / "ww_history.jsonl").read_text().splitlines()]


def steps_in_lines(folder):
    return [line["step"] for line in lines(folder) if "step" in line]


def steps_in_tensorboard(folder):
    events = EventAccumulator(str(folder / "ww_follow" / "ww"))
    events.Reload()
    return [event.step for event in events.Scalars("ww/alpha")]


def test_the_results_are_those_of_the_callback(tmp_path):
    arrays = weights()
    with ww.Monitor(arrays, every_n_steps=10, deterministic=True, jsonl=tmp_path / "monitor.jsonl") as monitor:
        save(tmp_path / "run", 0, arrays)
        for step in range(1, 31):
            arrays["fc1.weight"] *= np.float32(1.01)
            arrays["fc1.weight"][0] += np.float32(0.1)
            monitor.step(step)
            if step % 10 == 0:
                save(tmp_path / "run", step, arrays)
    history = follow(tmp_path / "run")
    assert history.steps == [0, 10, 20, 30]
    ours = {report.step: report for report in monitor.history}
    for report in history:
        for layer, other in zip(report, ours[report.step], strict=True):
            assert {**layer.to_dict(), "kind": other.kind} == other.to_dict()
    assert history[-1]["fc2"].unchanged_since == 0
    assert steps_in_lines(tmp_path / "run") == steps_in_tensorboard(tmp_path / "run") == [0, 10, 20, 30]
    assert monitor.history.findings == history.findings


def test_a_second_follower_adds_only_what_is_new(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    follow(tmp_path)
    save(tmp_path, 3)
    assert follow(tmp_path).steps == [1, 2, 3]
    assert steps_in_lines(tmp_path) == steps_in_tensorboard(tmp_path) == [1, 2, 3]
    assert not (tmp_path / KEPT).exists()


def test_a_result_that_another_follower_publishes_at_this_moment_is_no_error(tmp_path):
    results = Ledger(tmp_path).results
    (tmp_path / "results" / "step-1-abc.0-of-1.json").symlink_to(tmp_path / "removed after the folder was listed")
    assert results.complete() == []


class Killed(BaseException):
    """What ends a process at this point."""


@pytest.mark.parametrize("lost", ["nothing", "the end of a line", "a line"])
def test_what_a_killed_follower_left_half_written_is_written_once(tmp_path, monkeypatch, lost):
    for step in (1, 2, 3, 4):
        save(tmp_path / "whole", step)
        save(tmp_path / "killed", step)
        os.utime(tmp_path / "killed" / f"step-{step}.npz", (step, step))
        os.utime(tmp_path / "whole" / f"step-{step}.npz", (step, step))
    follow(tmp_path / "whole")

    def record(ledger, result, problem=""):
        if result.step == 3:
            raise Killed
        return recorded(ledger, result, problem)

    recorded = Ledger.record
    monkeypatch.setattr(Ledger, "record", record)
    with pytest.raises(Killed):
        follow(tmp_path / "killed")
    monkeypatch.undo()
    path = tmp_path / "killed" / "ww_follow" / "ww_history.jsonl"
    if lost == "the end of a line":
        path.write_bytes(path.read_bytes()[:-20])
    if lost == "a line":
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert follow(tmp_path / "killed").steps == [1, 2, 3, 4]
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    assert steps_in_tensorboard(tmp_path / "killed") == [1, 2, 3, 4]


def test_steps_that_go_back_replace_the_later_ones(tmp_path, caplog):
    for step in (10, 20, 30):
        save(tmp_path, step, at=step)
    follow(tmp_path)
    save(tmp_path, 20, weights(5.0), at=100)
    assert follow(tmp_path).steps == [10, 20]
    assert "step 20 was written after step 30: the run was restarted" in caplog.text
    save(tmp_path, 40, at=200)
    history = follow(tmp_path)
    assert history.steps == ww.read_jsonl(tmp_path / "ww_follow" / "ww_history.jsonl").steps == [10, 20, 40]
    assert history[1]["fc1"].norm > history[0]["fc1"].norm * 10


def test_a_restarted_run_may_give_its_checkpoints_other_names(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step, at=step)
    follow(tmp_path)
    os.replace(save(tmp_path / "new", 20, weights(5.0), at=100), tmp_path / "step-20-v1.npz")
    save(tmp_path, 30, weights(6.0), at=110)
    history = follow(tmp_path)
    assert history.steps == [10, 20, 30]
    assert history[1]["fc1"].norm == pytest.approx(history[2]["fc1"].norm * 25 / 36)


def test_an_older_checkpoint_that_appears_late_is_left_out(tmp_path, caplog):
    save(tmp_path, 20, at=20)
    follow(tmp_path)
    save(tmp_path, 10, at=10)
    assert follow(tmp_path).steps == [20]
    assert "step-10.npz: left out: its step is not after step 20" in caplog.text


def test_two_names_of_one_step_are_one_checkpoint(tmp_path, caplog):
    torch = pytest.importorskip("torch")
    state = {"state_dict": {"fc.weight": torch.from_numpy(weights()["fc1.weight"])}, "global_step": 5}
    for name in ("epoch=0-step=5.ckpt", "last.ckpt"):
        torch.save(state, tmp_path / name)
    assert follow(tmp_path).steps == [5]
    assert "left out" not in caplog.text


def test_parts_of_a_model_are_one_checkpoint_in_a_folder_and_otherwise_left_out_with_the_reason(tmp_path, caplog):
    parts = [{name: array} for name, array in weights().items()]
    for number, part in enumerate(parts):
        save(tmp_path / "whole" / "step-1", 0, part).rename(tmp_path / "whole" / "step-1" / f"stage{number}.npz")
        save(tmp_path / "flat", 1, part).rename(tmp_path / "flat" / f"stage{number}-step-1.npz")
    assert [layer.name for layer in follow(tmp_path / "whole")[0]] == ["fc1", "fc2"]
    assert caplog.text == ""
    assert [layer.name for layer in follow(tmp_path / "flat")[0]] == ["fc1"]
    told = "stage1-step-1.npz: left out: 'stage0-step-1.npz' is of the same step, with other layers. Save the parts"
    assert told in caplog.text


def test_what_cannot_be_followed_is_said_and_left_out(tmp_path, caplog):
    save(tmp_path, 1)
    save(tmp_path, 2, {"other.weight": weights()["fc2.weight"]})
    save(tmp_path, 3)
    (tmp_path / "step-4.npz").write_bytes((tmp_path / "step-1.npz").read_bytes()[:-50])
    os.replace(save(tmp_path / "elsewhere", 5), tmp_path / "best.npz")
    save(tmp_path, 6, {"norm.weight": np.ones(60, "float32")})
    history = follow(tmp_path)
    assert history.steps == [1, 3]
    assert "step-2.npz: left out: another model: 0 of its 1 layers are among those of step 1" in caplog.text
    assert "step-4.npz: left out: " in caplog.text
    assert "best.npz: left out: it states no step" in caplog.text
    assert "step-6.npz: left out: it has no layer to analyse" in caplog.text


def test_folders_without_checkpoints_and_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no checkpoints in"):
        follow(tmp_path)
    with pytest.raises(NotADirectoryError, match="run_dir"):
        follow(tmp_path / "missing")
    with pytest.raises(TypeError, match="early_stopping"):
        follow(tmp_path, early_stopping="plateau")
    save(tmp_path, 1)
    follow(tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(seed: 0, now 1\)"):
        follow(tmp_path, seed=1)


def test_training_is_told_once_to_stop(tmp_path, capsys, monkeypatch):
    arrays = weights()
    for step in range(1, 9):
        arrays["fc1.weight"] *= np.float32(1.01)
        if step > 1:
            arrays["fc1.weight"][3, 4] = 100.0  # a trap that stays
        save(tmp_path / "run", step, arrays)
    command = f'echo "$WW_STOP_REASON" >> {tmp_path / "told"}'
    words = ["follow", str(tmp_path / "run"), "--once", "--no-figures", "--until-stop", "--on-stop", command]
    assert main([*words, "--stop-file", str(tmp_path / "STOP")]) == 3
    assert "correlation trap" in (tmp_path / "STOP").read_text()
    main(words)
    assert (tmp_path / "told").read_text().count("correlation trap") == 1
    assert capsys.readouterr().out.startswith("step 1  alpha ")


def read_all(descriptor):
    """What is written to a pipe or a terminal until its last writer has closed it."""
    data = b""
    while True:
        try:
            more = os.read(descriptor, 10_000)
        except OSError:  # the end of a terminal
            more = b""
        if not more:
            os.close(descriptor)
            return data
        data += more


def test_a_pipe_gets_a_line_for_each_checkpoint_and_a_terminal_a_bar_in_addition(tmp_path):
    shown = []
    for name in ("pipe", "terminal"):
        run = tmp_path / name
        for step in (1, 2, 3):
            save(run, step)
        ours, theirs = os.openpty() if name == "terminal" else os.pipe()
        reader = threading.Thread(target=lambda end=ours: shown.append(read_all(end)))
        reader.start()
        command = [sys.executable, "-m", "ww_callbacks", "follow", str(run), "--once", "--no-figures"]
        terminal = {"TERM": "xterm", "COLUMNS": "120"}
        lines = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=os.environ | terminal, timeout=100)
        os.close(theirs)
        reader.join(60)
        assert [line[:6] for line in lines.stdout.decode().splitlines()] == ["step 1", "step 2", "step 3"]
    assert b"checkpoint 1 of" not in shown[0]
    assert b"\x1b" not in shown[0]
    for number in (1, 2, 3):
        assert f"checkpoint {number} of 3, step {number}".encode() in shown[1]


@pytest.fixture
def start(tmp_path):
    processes = []

    def start(*words):
        command = [sys.executable, "-m", "ww_callbacks", "follow", str(tmp_path / "run"), "--no-figures", *words]
        processes.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def wait_until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.05)


def test_a_running_follower_reads_checkpoints_that_are_deleted_soon_and_ends_on_request(tmp_path, start):
    run = tmp_path / "run"
    run.mkdir()
    follower = start("--poll", "0.2")
    for step in range(1, 6):
        path = save(run, step)
        wait_until(lambda: list((run / KEPT).glob(f"*/{path.name}")))  # noqa: B023 - called at once
        path.unlink()
    wait_until(lambda: (run / "ww_follow" / "ww_history.jsonl").exists() and len(steps_in_lines(run)) == 5)
    wait_until(lambda: not (run / KEPT).exists())
    follower.send_signal(signal.SIGTERM)
    assert follower.wait(timeout=60) == 128 + signal.SIGTERM
    assert steps_in_lines(run) == [1, 2, 3, 4, 5]
    assert list((run / "ww_follow" / ".follow" / "claims").iterdir()) == []
    assert not (run / KEPT).exists()


def test_a_file_that_is_still_written_is_not_read(tmp_path, start):
    run = tmp_path / "run"
    source = save(tmp_path, 1).read_bytes()
    run.mkdir()
    start("--poll", "0.1")
    with open(run / "step-1.npz", "wb", buffering=0) as file:
        for begin in range(0, len(source), 4000):
            file.write(source[begin : begin + 4000])
            time.sleep(0.15)
    wait_until(lambda: (run / "ww_follow" / "ww_history.jsonl").exists() and steps_in_lines(run) == [1])
    layers = ww.read_jsonl(run / "ww_follow" / "ww_history.jsonl")[0]
    expected = ww.analyze(tmp_path / "step-1.npz", workers=1)
    assert [layer.alpha for layer in layers] == [layer.alpha for layer in expected]


def test_followers_share_the_work_and_publish_every_step_once(tmp_path, start):
    run = tmp_path / "run"
    for step in range(1, 13):
        save(run, step)
    followers = [start("--once") for _ in range(2)]
    for follower in followers:
        assert follower.wait(timeout=100) == 0
    assert steps_in_lines(run) == steps_in_tensorboard(run) == list(range(1, 13))
