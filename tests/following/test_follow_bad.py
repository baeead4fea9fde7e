"""What goes wrong while a run is followed is said once, in a line; nothing is lost, and nothing runs in a busy loop."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest

from ww_callbacks.cli import main
from ww_callbacks.following import follower, table
from ww_callbacks.following.follower import Follower
from ww_callbacks.following.work import Work
from ww_callbacks.monitor.options import Options

HOUR = 3600


def save(folder, step, shape=(90, 60), hours=0.0):
    """A checkpoint; its time, if given, is so many hours after 2001 and the step in seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step}.npz"
    np.savez(path, **{"fc.weight": np.random.default_rng(step).standard_normal(shape)})
    os.utime(path, (10**9 + hours * HOUR + step,) * 2)
    return path


@pytest.fixture
def open_folder():
    """A folder that every user can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def started(tmp_path):
    """A follower of the folder ``run``."""
    root = tmp_path / "run"
    root.mkdir()
    options = Options(every_n_steps=None, figures=False)
    one = Follower(root, root / "ww_follow", Work(settings=options.settings()), options, None, hold=8)
    yield one
    one.close()


def steps(reports):
    return [report.step for report in reports]


def run_program(body, *arguments, **options):
    program = f"import ww_callbacks as ww\n{textwrap.dedent(body)}"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)


def test_half_a_checkpoint_is_read_once_and_left_out_once(tmp_path, started, monkeypatch, caplog):
    root, reads = tmp_path / "run", []
    path = save(root, 1)
    path.write_bytes(path.read_bytes()[:-50])
    find = table.find_layers
    monkeypatch.setattr(table, "find_layers", lambda *words, **more: reads.append(1) or find(*words, **more))
    for _ in range(20):
        started.poll()
    assert (len(reads), caplog.text) == (1, "")  # it may be completed later
    monkeypatch.setattr(follower, "GIVE_UP", 0.0)
    for _ in range(20):
        started.poll()
    assert len(reads) == 1
    assert caplog.text.count("left out") == 1
    save(root, 1)
    reports = [report for _ in range(3) for report in started.poll()]
    assert steps(reports) == [1]


def test_a_checkpoint_of_another_model_in_between_is_left_out_once(tmp_path, started, caplog):
    for step, shape in [(1, (90, 60)), (2, (80, 70)), (3, (90, 60))]:
        save(tmp_path / "run", step, shape)
    reports = [report for _ in range(10) for report in started.poll()]
    assert steps(reports) == [1, 3]
    assert caplog.text.count("another model") == caplog.text.count("\n") == 1


def test_clocks_of_hosts_may_differ_by_hours(tmp_path, started, caplog):
    for step, hours in [(1, 0), (2, 10**6), (3, -5), (4, 7), (5, -100)]:
        save(tmp_path / "run", step, hours=hours)
        for _ in range(3):
            started.poll()
    assert started.history.steps == [1, 2, 3, 4, 5]
    assert caplog.text == ""


def test_a_restarted_run_on_a_host_whose_clock_is_behind_is_said_once(tmp_path, started, caplog):
    for step, hours in [(10, 0), (20, 0), (15, -3), (30, -3)]:
        save(tmp_path / "run", step, hours=hours)
        for _ in range(5):
            started.poll()
    assert started.history.steps == [10, 20, 30]
    told = "step-15.npz: left out: its step is not after step 20, which was published, and its time is not later"
    assert caplog.text.count(told) == caplog.text.count("\n") == 1


FULL = """
import resource, sys, threading, warnings
from pathlib import Path
run, small = Path(sys.argv[1]), int(sys.argv[2])
warnings.simplefilter("always")
resource.setrlimit(resource.RLIMIT_FSIZE, (small, resource.RLIM_INFINITY))
def room(message, *_):
    print(message, file=sys.stderr, flush=True)
    free = (resource.RLIM_INFINITY,) * 2
    threading.Timer(2.0, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, free)).start()
warnings.showwarning = room
def ended(report):
    if report.step == 3:
        raise KeyboardInterrupt
ww.follow(run, poll=0.1, figures=False, on_result=ended)
"""


@pytest.mark.slow
@pytest.mark.parametrize("small", [600, 3000, 12000])
def test_a_full_disk_is_waited_for(tmp_path, small):
    for step in (1, 2, 3):
        save(tmp_path, step)
    log_dir = tmp_path / "ww_follow"
    (log_dir / ".follow").mkdir(parents=True)
    ended = run_program(FULL, tmp_path, small)
    assert ended.stderr.count("for now, trying again every 0.1 s: [Errno 27]") == 1, ended.stderr
    run_program(f"ww.follow({str(tmp_path)!r}, once=True, figures=False)")
    lines = [json.loads(line) for line in (log_dir / "ww_history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == [1, 2, 3]


AS_NOBODY = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
before, run, results = sys.argv[1:]
def follow(*places):
    try:
        print(ww.follow(*places[:1], log_dir=places[1], once=True, figures=False, executor=ThreadPoolExecutor(1)).steps)
    except OSError as error:
        print(error)
follow(before, None)  # all modules are loaded
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
follow(run, results)
follow(run, None)
follow(run + "/closed", results + "-of-closed")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_what_may_not_be_read_or_written_is_said_in_a_line(open_folder):
    before, run, place = open_folder / "before", open_folder / "run", open_folder / "place"
    save(before, 1)
    for step in (1, 2, 3):
        save(run, step)
    save(run / "closed", 4)
    save(run / "checkpoint-5", 0).rename(run / "checkpoint-5" / "model.npz")
    for name, mode in [("step-2.npz", 0), ("closed", 0), ("checkpoint-5", 0o644)]:
        (run / name).chmod(mode)
    run.chmod(0o755)
    place.mkdir()
    place.chmod(0o777)
    ended = run_program(AS_NOBODY, before, run, place / "results")
    assert ended.stdout.splitlines() == [
        "[1]",
        "[1, 3]",
        f"[Errno 13] Permission denied: '{run / 'ww_follow'}'",
        f"[Errno 13] Permission denied: '{run / 'closed'}'",
    ], ended.stderr
    for name in ("step-2.npz", "closed", "checkpoint-5"):
        told = [line for line in ended.stderr.splitlines() if line.startswith(str(run / name))]
        assert len(told) == 1, ended.stderr
        assert "left out: " in told[0]
        assert "Permission denied" in told[0]


def test_waiting_needs_no_time_of_the_processor(tmp_path):
    (tmp_path / "empty").mkdir()
    program = """
    import sys, time
    naps = []
    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 50:
            raise KeyboardInterrupt
    time.sleep = sleep
    ww.follow(sys.argv[1], poll=7.0)
    print(naps.count(7.0))
    """
    ended = run_program(program, tmp_path / "empty")
    assert ended.stdout == "50\n", ended.stderr
    assert ended.stderr.count("no checkpoints in") == ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--on-stop", "exit 4"], "--on-stop: 'exit 4' ended with status 4"),
        (["--on-stop", "/no/such/program"], "--on-stop: '/no/such/program' ended with status 127"),
        (["--stop-file", "/no/such/folder/STOP"], "--stop-file: not written: [Errno 2] No such file or directory"),
    ],
)
def test_what_cannot_be_done_when_training_should_stop_is_said_and_the_follower_goes_on(
    tmp_path, monkeypatch, caplog, words, told
):
    save(tmp_path, 1)
    save(tmp_path, 2)
    monkeypatch.setattr(Follower, "stop_reason", property(lambda self: "alpha has risen"))
    assert main(["follow", str(tmp_path), "--once", "--no-figures", "--until-stop", *words]) == 3
    assert caplog.text.count(told) == 1
