import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import eventually
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ww_callbacks as ww

torch = pytest.importorskip("torch")
training = pytest.importorskip("training")

FOLLOW = [sys.executable, "-m", "ww_callbacks", "follow"]
TRAIN = [sys.executable, training.__file__]


def run_until_done(random_numbers, steps, run):
    """Train and follow, with each process killed again and again."""
    commands = {
        "trainer": [*TRAIN, str(run), str(steps), "0.15"],
        "first": [*FOLLOW, str(run), "--poll", "0.2", "--no-figures"],
        "second": [*FOLLOW, str(run), "--poll", "0.3", "--no-figures"],
    }
    running = {}
    kills = 0
    end = time.monotonic() + 900
    try:
        while not (run / f"step-{steps}.pt").exists() or running["trainer"].poll() is None:
            assert time.monotonic() < end
            for name, command in commands.items():
                if name not in running or running[name].poll() is not None:
                    running[name] = _start(command)
            time.sleep(random_numbers.uniform(2, 8))
            victim = random_numbers.choice(list(running))
            os.killpg(running[victim].pid, signal.SIGKILL)
            running[victim].wait()
            kills += 1
    finally:
        for process in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return kills


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0])
def test_trainer_and_followers_can_be_killed_at_any_time(tmp_path, seed):
    steps, run = 200, tmp_path / "run"
    run.mkdir()
    kills = run_until_done(random.Random(seed), steps, run)
    ended = subprocess.run([*FOLLOW, str(run), "--once", "--no-figures"], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert kills >= 5

    model, optimizer = training.make()
    with ww.Monitor(model, every_n_steps=1, deterministic=True, timeout=300) as monitor:
        for step in range(1, steps + 1):
            training.train(model, optimizer, step)
            monitor.step(step)

    written = [json.loads(line) for line in (run / "ww_follow" / "ww_history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written if "step" in line] == list(range(1, steps + 1))
    events = EventAccumulator(str(run / "ww_follow" / "ww"), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("ww/alpha")] == list(range(1, steps + 1))
    ours = {report.step: report for report in monitor.history}
    for report in ww.read_jsonl(run / "ww_follow" / "ww_history.jsonl"):
        for layer, other in zip(report, ours[report.step], strict=True):
            assert _numbers(layer) == _numbers(other)
    assert not (run / ".ww_follow").exists()
    assert list((run / "ww_follow" / ".follow" / "results").iterdir()) == []
    assert eventually(lambda: not _left(run), 10)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_followers_that_share_the_work_give_the_changes_of_one_that_was_not(tmp_path):
    numbers, kills = random.Random(0), 4
    for run in (tmp_path / "whole", tmp_path / "killed"):
        generator, weights = np.random.default_rng(0), {}
        run.mkdir()
        for step in range(1, 13):
            for number in range(6):
                before = weights.get(f"fc{number}", 0)
                weights[f"fc{number}"] = before + generator.standard_normal((120, 80))
            np.savez(run / f"step-{step}.npz", **weights)
            os.utime(run / f"step-{step}.npz", (step, step))
    follow = [*FOLLOW, "--once", "--updates", "--no-figures"]
    subprocess.run([*follow, str(tmp_path / "whole")], check=True, capture_output=True, timeout=300)
    claims = tmp_path / "killed" / "ww_follow" / ".follow" / "claims"
    for _ in range(kills):
        followers = [_start([*follow, str(tmp_path / "killed")]) for _ in range(2)]
        try:
            eventually(lambda: _is_busy(claims) or any(each.poll() is not None for each in followers), 120)  # noqa: B023
            time.sleep(numbers.uniform(0.0, 0.5))
        finally:
            for follower in followers:
                if follower.poll() is None:
                    os.killpg(follower.pid, signal.SIGKILL)
                follower.wait()
    subprocess.run([*follow, str(tmp_path / "killed")], check=True, capture_output=True, timeout=300)
    whole, killed = (
        (run / "ww_follow" / "ww_history.jsonl").read_text() for run in (tmp_path / "whole", tmp_path / "killed")
    )
    assert '"update_since": 11' in whole
    assert killed == whole
    assert list((tmp_path / "killed" / "ww_follow" / ".follow" / "updates").iterdir()) == []
    assert eventually(lambda: not _left(tmp_path), 10)


def _is_busy(claims: Path) -> bool:
    return claims.is_dir() and any(claims.iterdir())


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _numbers(layer: ww.LayerReport) -> dict[str, object]:
    """The columns without the class, the counts since step 0, and the histogram, which only the last report keeps."""
    return {**layer.to_dict(), "kind": None, "initial_traps": None, "histogram": None}


def _left(run: Path) -> list[int]:
    """Processes that have the folder of the run on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(run).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]
