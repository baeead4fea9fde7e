"""Snapshots in a folder: written by the worker, analysed by whoever follows them."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from elsewhere import NO_RIGHT
from processes import eventually, no_worker_left
from torch import nn

import ww_callbacks as ww
from ww_callbacks.torch import DistributedMonitor
from ww_callbacks.worker import spool

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def nothing_left():
    with no_worker_left():
        yield


class Model(nn.Module):
    """What names and shapes do not tell: classes, parts, two precisions, tied and skipped layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.embed = nn.Embedding(70, 60)
        self.qkv = nn.Linear(60, 180)
        self.low = nn.Linear(60, 60).bfloat16()
        self.head = nn.Linear(60, 70, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens, images):
        words = self.qkv(self.embed(tokens)).reshape(-1, 3, 60).mean(1)
        return (
            self.head(self.low(words.bfloat16()).float()).square().mean() + self.norm(self.conv(images)).square().mean()
        )


def train(steps=20, **options):
    """Train a model with a monitor; returns both."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    with ww.Monitor(model, every_n_steps=10, deterministic=True, split={"qkv": 3}, **options) as monitor:
        for step in range(1, steps + 1):
            tokens = torch.randint(0, 70, (16,), generator=generator)
            loss = model(tokens, torch.randn(2, 3, 8, 8, generator=generator))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(step)
    return model, monitor


def rows(history):
    return [[layer.to_dict() for layer in report] for report in history]


def files(folder):
    return sorted(os.listdir(folder))


def names(*steps):
    return [f"step-{step:09d}.safetensors" for step in steps]


def stopped(monitor):
    """Stop the worker, which then works on nothing."""
    assert eventually(lambda: monitor.status().worker_pids, 60)
    (pid,) = monitor.status().worker_pids
    os.kill(pid, signal.SIGSTOP)
    assert eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return pid


def arrays(rows=60):
    return {"fc": np.random.default_rng(0).standard_normal((rows, 50))}


def test_a_followed_spool_equals_the_monitor_and_can_be_analysed_again(tmp_path):
    model, monitor = train()
    spooled, writer = train(spool=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), spooled.parameters(), strict=True))
    assert (len(writer.history), writer.metrics, files(tmp_path)) == (0, {}, names(0, 10, 20))
    status = writer.status()
    assert (status.snapshots, status.spooled, status.pending, status.failed) == (3, 3, 0, 0)
    assert str(status).startswith("3 of 3 snapshots written, 0 skipped")
    history = ww.follow(tmp_path, once=True, figures=False)
    assert rows(history) == rows(monitor.history)  # bit for bit, the kinds included
    assert {layer.kind for layer in history[-1]} >= {"Conv2d", "Embedding", "Linear"}
    other = {"precision": "float32", "fit": "TPL", "randomize": False, "layers": ["qkv.*", "conv"]}
    again = ww.follow(tmp_path, log_dir=tmp_path / "again", once=True, figures=False, **other)
    here = ww.analyze(model, split={"qkv": 3}, **other)
    assert [{**layer.to_dict(), "step": None} for layer in again[-1]] == [layer.to_dict() for layer in here]


def test_a_resumed_run_goes_on_without_doubles(tmp_path):
    def begin(state=None, step=None):
        monitor = ww.Monitor(arrays(), every_n_steps=10, spool=tmp_path, deterministic=True)
        if state is not None:
            monitor.load_state_dict(state)
        monitor.start(step)
        return monitor

    first = begin()
    for step in (10, 15):
        first.step(step)
    assert eventually(lambda: files(tmp_path) == names(0, 10), 60)
    state = first.state_dict()
    first.close()
    before = (tmp_path / names(10)[0]).stat().st_mtime_ns
    second = begin(state, 15)
    for step in (16, 20):
        second.step(step)
    second.finish()
    assert files(tmp_path) == names(0, 10, 20)
    assert (tmp_path / names(10)[0]).stat().st_mtime_ns == before
    (tmp_path / names(10)[0]).unlink()  # what was lost is taken again
    with pytest.warns(RuntimeWarning, match="has snapshots of steps 20 to 20, but training starts at step 15"):
        begin(state, 15).finish()
    assert files(tmp_path) == names(0, 15, 20)


def test_a_full_disk_costs_snapshots_and_nothing_else(tmp_path):
    monitor = ww.Monitor(arrays(), every_n_steps=10, spool=tmp_path, deterministic=True)
    monitor.start(0)
    assert eventually(lambda: files(tmp_path) == names(0), 60)
    (pid,) = monitor.status().worker_pids
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (2**12, resource.RLIM_INFINITY))
    monitor.step(10)
    with pytest.warns(RuntimeWarning, match=r"spool: a snapshot was not written into .*: step 10: OSError:"):
        monitor.step(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.step(30)
        monitor.step(40)  # after the results of the one before
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monitor.finish(50)
    assert (monitor.status().spooled, monitor.status().failed) in [(2, 4), (3, 3)]  # of step 40 one or the other
    assert files(tmp_path) in [names(0, 50), names(0, 40, 50)]


def test_a_killed_writer_leaves_no_half_file_and_is_replaced(tmp_path):
    monitor = ww.Monitor(arrays(), every_n_steps=10, spool=tmp_path)
    monitor.start(0)
    assert eventually(lambda: files(tmp_path) == names(0), 60)
    assert eventually(lambda: monitor.step(1) or monitor.status().spooled == 1, 60)
    pid = stopped(monitor)
    monitor.step(10)
    draft = tmp_path / f".{names(10)[0]}.part"
    draft.write_bytes(b"half")  # as far as it had come
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not draft.exists(), 60)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        monitor.finish(20)
    if monitor.status().failed == 0:  # it had not been given the snapshot yet, so the next worker wrote it
        assert (files(tmp_path), told) == (names(0, 10, 20), [])
        return
    assert (monitor.status().spooled, monitor.status().failed) == (2, 1)
    assert files(tmp_path) == names(0, 20)
    assert "step 10: the worker process ended with status -9" in str(told[0].message)


def test_a_stopped_writer_makes_snapshots_skipped_and_the_end_wait_no_longer_than_the_timeout(tmp_path, caplog):
    monitor = ww.Monitor(arrays(rows=2**16), every_n_steps=1, spool=tmp_path, timeout=0.2)
    monitor.start(0)
    assert eventually(lambda: files(tmp_path) == names(0), 60)
    stopped(monitor)
    for step in range(1, 9):
        monitor.step(step)
    assert monitor.status().pending == 2
    with pytest.warns(RuntimeWarning, match=r"2 snapshots were not written within 0\.2 s"):
        monitor.finish()
    assert monitor.status().skipped >= 5
    assert files(tmp_path) == names(0)
    assert "because too many others were pending" in caplog.text


def test_a_folder_that_is_removed_or_cannot_be_made_ends_no_training(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "spool", tmp_path / "spool"):
        monitor = ww.Monitor(arrays(), every_n_steps=10, spool=place, deterministic=True)
        shutil.rmtree(place, ignore_errors=True)
        monitor.start(0)
        with pytest.warns(RuntimeWarning, match=r"not written into .*spool: step 0: (NotADirectory|FileNotFound)Error"):
            monitor.step(10)
        place.parent.is_dir() and place.mkdir()  # it is back
        monitor.finish(20)
        assert bool(monitor.status().spooled) == place.is_dir()
    with pytest.raises(OSError, match="Not a directory"):
        ww.Monitor(arrays(), spool=tmp_path / "file" / "spool", on_error="raise")
    monitor = ww.Monitor(arrays(), spool=tmp_path / "gone", on_error="raise")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OSError, match="not written into"), monitor:
        pass


def test_another_user_who_may_not_write_the_folder_trains_on(tmp_path):
    script = f"""
import sys
sys.path.append({str(Path(__file__).parents[1])!r})
import elsewhere
elsewhere.as_nobody()
import numpy as np
import ww_callbacks as ww
with ww.Monitor({{"fc": np.eye(60)}}, every_n_steps=10, spool="spool", deterministic=True) as monitor:
    for step in range(1, 21):
        monitor.step(step)
print(monitor.status().spooled, monitor.status().failed)
"""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "spool").mkdir()
        place.chmod(0o755)
        (place / "spool").chmod(0o555)
        (place / "script.py").write_text(script)
        done = subprocess.run(
            [sys.executable, "script.py"], cwd=place, capture_output=True, text=True, timeout=100, check=False
        )
        if done.returncode == NO_RIGHT:
            pytest.skip("the system permits no change of the user")
        assert done.stdout == "0 3\n", done.stderr
        assert done.stderr.count("PermissionError") == 1
        assert files(place / "spool") == []


def test_of_two_writers_of_one_file_one_fails_and_the_file_is_whole(tmp_path):
    path = tmp_path / "step-000000001.safetensors"

    def parts():
        yield b"first"
        spool._write(path, [b"second ", b"writer"])
        yield b"first again"

    with pytest.raises(OSError, match="step-000000001"):
        spool._write(path, parts())
    assert (path.read_bytes(), files(tmp_path)) == (b"second writer", [path.name])


def test_what_needs_results_is_refused():
    for useless in ({"jsonl": "a.jsonl"}, {"log_dir": "a"}, {"on_result": print}, {"budget": 0.1}, {"updates": True}):
        with pytest.raises(
            ValueError, match=f"^spool: nothing is analysed in this run, so {next(iter(useless))} would"
        ):
            ww.Monitor(arrays(), spool="spool", **useless)
    with pytest.raises(ValueError, match="so fit, seed would have no effect; remove them here"):
        ww.Monitor(arrays(), spool="spool", fit="TPL", seed=5)
    with pytest.raises(ValueError, match='requires executor="process"'):
        ww.Monitor(arrays(), spool="spool", executor="thread")
    with pytest.raises(ValueError, match="expected a folder, got the URL 's3://bucket'"):
        ww.Monitor(arrays(), spool="s3://bucket")
    with pytest.raises(TypeError, match="spool: expected a path or None, got 5"):
        ww.Monitor(arrays(), spool=5)
    assert not Path("spool").exists()


def test_signals_are_refused(tmp_path):
    for monitor in (ww.Monitor(arrays(), spool=tmp_path), DistributedMonitor(nn.Linear(60, 60), spool=tmp_path)):
        with pytest.raises(ValueError, match="spool: signal 'stop' needs results, and nothing is analysed in this run"):
            monitor.attach("stop", ww.EarlyStopping())
