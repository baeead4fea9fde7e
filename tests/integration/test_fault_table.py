"""Every fault in every phase.

Faults: the worker is killed, is stopped or has no memory; the trainer is killed, terminated or interrupted.
Phases: `idle`, nothing is pending; `copying`, weights are being copied; `computing`, the worker analyses a large layer.
"""

from __future__ import annotations

import os
import resource
import signal

import pytest
from elsewhere import NO_RIGHT
from programs import LOADER_EXIT_TIMEOUT, MEMORY, ROOT, Program, Session, mappings, proc_file, session, wait_until

pytestmark = pytest.mark.timeout(150)

PHASES = ("idle", "copying", "computing")

HELD = """
import os, sys, time
import numpy as np
import ww_callbacks as ww
from programs import fit, reached, save, set_layer_timeout, told, weights_at
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer

phase = sys.argv[1]
take = SnapshotBuffer.take

def held(read):
    def hold():
        if told("hold") and not told("go"):
            reached("copying")
            while not told("go"):
                time.sleep(0.01)
        return read()
    return hold

def take_held(self, reads, which=None):
    return take(self, [*reads[:-1], held(reads[-1])], which)

SnapshotBuffer.take = take_held
"""


@pytest.fixture
def run(tmp_path):
    with session(tmp_path) as started:
        yield started


def enter(run: Session, program: Program, phase: str) -> int:
    """Bring a program into a phase. Return the process id of its worker."""
    program.reaches("training")
    if phase == "computing":
        return program.busy_worker(0.1)
    worker = program.worker()
    if phase == "copying":
        (run.folder / "hold").touch()
        program.reaches("copying")
    return worker


# --- the worker ------------------------------------------------------------------------------------------------------

LOOP = (
    HELD
    + """
import warnings
size = 900 if phase == "computing" else 300
model = {"small": weights_at(0), "big": np.random.default_rng(0).standard_normal((size, size), np.float32)}
set_layer_timeout(float(sys.argv[2]))
monitor = ww.Monitor(model, every_n_steps=1, timeout=60)
step = 0
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    monitor.start()
    monitor.wait_for_first()
    reached("training")
    while not told("end") or len(monitor.history) < 4:
        if phase == "idle" and not told("go"):
            time.sleep(0.01)
            continue
        step += 1
        model["small"] += 1e-3
        model["big"][0, 0] = step
        monitor.step(step)
        time.sleep(0.002)
        if len(monitor.history) >= 4:
            reached("went on")
    monitor.finish()
layers = [[layer.name, layer.status, layer.reason] for report in monitor.history for layer in report]
save({"warnings": [str(each.message) for each in caught], "layers": layers})
"""
)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def starve(pid: int) -> None:
    """Limit the memory to the current usage. Further allocations fail, as at the memory limit of a container."""
    used = int(proc_file(pid, "statm").split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (used + 2**16, used + 2**16))


REASONS = {
    kill: ("the worker process ended with status -9",),
    stop: ("no answer within 8 s",),
    starve: ("not enough memory for this layer", "the worker process ended"),
}


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("fault", [kill, stop, starve])
def test_worker_fault_fails_a_layer_but_not_the_run(run: Session, phase, fault):
    program = run.start(LOOP, phase, "8" if fault is stop else "600")
    fault(enter(run, program, phase))
    (run.folder / "go").touch()
    program.reaches("went on")
    (run.folder / "end").touch()
    program.succeed(90)
    result = run.json()
    assert result["warnings"] == []
    failed = [layer for layer in result["layers"] if layer[1] == "failed"]
    assert all(reason.startswith(REASONS[fault]) for _, _, reason in failed), failed
    if fault is not starve:
        assert len(failed) <= 1
        assert [status for _, status, _ in result["layers"][-2:]] == ["ok", "ok"]
    run.assert_nothing_left()


# --- the trainer -----------------------------------------------------------------------------------------------------

FIT = (
    HELD
    + """
from ww_callbacks.lightning import SpectralMonitor
fit(SpectralMonitor(every_n_steps=10**6 if phase == "idle" else 2), until="never",
    big=2000 if phase == "computing" else 0, loader_workers=2)
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_worker_exits_with_its_trainer_even_if_forked_loaders_survive(run: Session, lightning, phase, sent):
    program = run.start(FIT, phase, server=lightning)
    worker = enter(run, program, phase)
    wait_until(lambda: MEMORY in proc_file(worker, "maps"), "the worker maps the memory")
    loaders = [pid for pid in run.processes() if pid not in (worker, program.pid)]
    assert len(loaders) == 2
    assert [pid for pid in loaders if mappings(pid)] == [], "forked DataLoader workers hold the shared memory"
    os.kill(program.pid, sent)
    if sent == signal.SIGTERM:
        (run.folder / "go").touch()  # Lightning's handler ends training at the next hook, after the copy
    status = program.wait(30)
    assert status != 0 or sent == signal.SIGTERM  # after SIGTERM the status depends on Lightning
    run.assert_worker_gone()
    run.assert_nothing_left(LOADER_EXIT_TIMEOUT)
    assert "ww_callbacks:" not in program.output


# --- disk and memory --------------------------------------------------------------------------------------------------


def test_full_disk_causes_at_most_one_warning_per_output(run: Session):
    """TensorBoard events and JSON lines cause at most one warning each. The results stay in the history."""
    disk = run.folder / "disk"
    disk.mkdir()
    program = run.start(
        f"""
from elsewhere import small_disk
small_disk({str(disk)!r}, "64k")
import warnings
import ww_callbacks as ww
from programs import outcome, save, weights_at
model = {{f"fc{{i}}": weights_at(i) for i in range(4)}}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with ww.Monitor(model, every_n_steps=1, deterministic=True, log_dir={str(disk)!r}, jsonl=True) as monitor:
        for step in range(1, 9):
            for weights in model.values():
                weights *= 1.01
            monitor.step(step)
save({{"warnings": [str(each.message) for each in caught], "history": outcome(monitor.history)}})
""",
        path=(ROOT / "tests",),
    )
    if program.wait() == NO_RIGHT:
        pytest.skip("needs permission to mount")
    program.succeed()
    result = run.json()
    assert [step for step, _ in result["history"]] == list(range(9))
    ours = [message for message in result["warnings"] if message.startswith("ww_callbacks")]
    assert 1 <= len(ours) <= 2, ours
    assert all("No space left" in message for message in ours), ours
    run.assert_nothing_left(had_memory=False)


@pytest.mark.slow
def test_100_consecutive_monitors_leak_nothing(run: Session):
    program = run.start(
        """
import gc, os
import ww_callbacks as ww
from programs import save, weights_at

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def counts():
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    return [len(os.listdir("/proc/self/fd")), len(children), open("/proc/self/maps").read().count("memfd:ww_callbacks")]

seen, memory = [], []
for number in range(100):
    monitor = ww.Monitor({"fc": weights_at(number, 400, 300)}, every_n_steps=1)
    monitor.start()
    monitor.finish(1) if number % 10 == 0 else monitor.close()
    seen.append(counts())
    memory.append(resident())
save({"seen": seen, "memory": memory})
"""
    )
    program.succeed(140)
    result = run.json()
    assert result["seen"][1:] == [result["seen"][1]] * 99
    assert result["memory"][-1] - result["memory"][10] < 4.0, result["memory"]
    run.assert_nothing_left(had_memory=False)


# --- layers that crash the worker ------------------------------------------------------------------------------------

DEADLY = """
import os, signal, sys
if "ww_callbacks.worker" in sys.orig_argv:
    import ww_callbacks.analysis as analysis
    analyze = analysis.analyze_layer

    def deadly(spec, *rest):
        if spec.name == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        return analyze(spec, *rest)

    analysis.analyze_layer = deadly
"""

SIX_STEPS = """
import sys, warnings
import ww_callbacks as ww
from programs import save, weights_at
model = {name: weights_at(0, 90 + 10 * number) for number, name in enumerate(sys.argv[1:])}
steps = 0
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with ww.Monitor(model, every_n_steps=1, deterministic=True) as monitor:
        for step in range(1, 7):
            for weights in model.values():
                weights *= 1.01
            monitor.step(step)
            steps += 1
layers = [[layer.name, layer.status, layer.reason] for report in monitor.history for layer in report]
save({"steps": steps, "warnings": [str(each.message) for each in caught], "layers": layers})
"""


def run_deadly(run: Session, *layers: str):
    (run.folder / "site").mkdir()
    (run.folder / "site" / "sitecustomize.py").write_text(DEADLY)
    run.run(SIX_STEPS, *layers, path=(run.folder / "site",))
    run.assert_nothing_left(had_memory=False)
    result = run.json()
    assert result["steps"] == 6
    return result


def test_layer_that_crashes_the_worker_twice_is_skipped_and_others_continue(run: Session):
    result = run_deadly(run, "good", "deadly")
    assert result["warnings"] == []
    assert [status for name, status, _ in result["layers"] if name == "good"] == ["ok"] * 7
    reasons = [reason for name, _, reason in result["layers"] if name == "deadly"]
    assert reasons[:2] == ["the worker process ended with status -9"] * 2
    assert set(reasons[2:]) == {
        "skipped: the worker crashed on it twice; last error: the worker process ended with status -9"
    }


def test_one_warning_and_training_continues_if_every_layer_crashes_the_worker(run: Session):
    result = run_deadly(run, "deadly")
    (message,) = result["warnings"]
    assert "training continues" in message
    assert "the worker process ended 3 times in a row" in message
