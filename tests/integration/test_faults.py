"""Faults of trainers and workers: nothing is left of the monitor, and training continues without its worker."""

from __future__ import annotations

import os
import signal

import pytest
from programs import IN_EIGENSOLVER, LOADER_EXIT_TIMEOUT, Session, mappings, session, wait_until

pytestmark = pytest.mark.timeout(120)

# All scripts are top-level code without a main guard.
IMPORTS = """
import os, sys, time
import ww_callbacks as ww
from programs import fit, outcome, reached, save, set_layer_timeout, told, weights_at
"""
LIGHTNING = IMPORTS + "from ww_callbacks.lightning import SpectralMonitor\n"

FOREVER = LIGHTNING + 'fit(SpectralMonitor(every_n_steps=5), until="end", big=2000)\n'


@pytest.fixture
def run(tmp_path):
    with session(tmp_path) as started:
        yield started


# --- Lightning: the trainer exits ------------------------------------------------------------------------------------


def test_normal_end(run: Session, lightning):
    program = run.start(
        LIGHTNING
        + """
callback = SpectralMonitor(every_n_steps=5, jsonl=True, figures=False)
fit(callback, until="end", tensorboard=True)
save(outcome(callback.history))
reached("fitted")
while not told("looked"):
    time.sleep(0.01)
""",
        server=lightning,
    )
    program.reaches("training")
    program.worker()
    run.memory()
    (run.folder / "end").touch()
    program.reaches("fitted")
    run.assert_worker_gone()  # fit has returned, the program continues
    assert not run.memory()
    (run.folder / "looked").touch()
    program.succeed()
    assert run.json()[0][0] == 0
    assert len(list(run.folder.glob("log/version_0/ww_history.jsonl"))) == 1
    run.assert_nothing_left()


def test_exception_in_training_step(run: Session, lightning):
    """The exception reaches the user unchanged. Nothing is left of the monitor if the program continues."""
    program = run.start(
        LIGHTNING
        + """
class CustomError(Exception):
    pass

error = CustomError("as raised")

def fail(number):
    if told("fail"):
        raise error

callback = SpectralMonitor(every_n_steps=1)
try:
    fit(callback, until="never", big=2000, in_step=fail)
except CustomError as caught:
    assert caught is error and caught.args == ("as raised",), caught
    assert caught.__cause__ is None and caught.__context__ is None
    reached("caught")
while not told("looked"):
    time.sleep(0.01)
""",
        server=lightning,
    )
    program.busy_worker(0.1)
    run.memory()
    (run.folder / "fail").touch()
    program.reaches("caught")
    run.assert_worker_gone()
    assert not run.memory()
    (run.folder / "looked").touch()
    program.succeed()
    run.assert_nothing_left()


@pytest.mark.parametrize(
    "to_group",
    [pytest.param(True, id="whole process group"), pytest.param(False, id="trainer only", marks=pytest.mark.slow)],
)
def test_ctrl_c(run: Session, lightning, to_group):
    program = run.start(FOREVER, server=lightning)
    program.reaches("training")
    program.busy_worker(0.1)
    (os.killpg if to_group else os.kill)(program.pid, signal.SIGINT)
    assert program.wait(20) == 1
    assert "KeyboardInterrupt" in program.output
    assert "ww_callbacks:" not in program.output
    assert "monitoring was closed: the results of step" in program.output
    run.assert_nothing_left()


@pytest.mark.slow
def test_sigterm(run: Session, lightning):
    program = run.start(FOREVER, server=lightning)
    program.reaches("training")
    program.busy_worker(0.1)
    os.kill(program.pid, signal.SIGTERM)
    program.wait(20)  # the status depends on Lightning
    run.assert_nothing_left()


def test_sigkill_in_the_eigensolver_with_forked_persistent_data_loader_workers(run: Session, lightning):
    program = run.start(
        LIGHTNING + 'fit(SpectralMonitor(every_n_steps=5), until="never", big=3000, loader_workers=2)\n',
        server=lightning,
        environment=IN_EIGENSOLVER,
    )
    program.reaches("training")
    worker = program.worker_in_eigensolver()
    loaders = [pid for pid in run.processes() if pid not in (worker, program.pid)]
    assert len(loaders) == 2
    assert mappings(program.pid)
    assert mappings(worker) == mappings(program.pid)
    assert [pid for pid in loaders if mappings(pid)] == [], "forked DataLoader workers hold the shared memory"
    os.kill(program.pid, signal.SIGKILL)
    run.assert_worker_gone()
    run.assert_nothing_left(LOADER_EXIT_TIMEOUT)


@pytest.mark.parametrize(
    "delay",
    [
        pytest.param(0.0, id="immediately", marks=pytest.mark.slow),
        pytest.param(1.0, id="before the lifeline is set up"),
    ],
)
def test_sigkill_while_the_worker_starts(run: Session, delay):
    (run.folder / "site").mkdir()
    (run.folder / "site" / "sitecustomize.py").write_text(
        f"import sys, time\nif 'ww_callbacks.worker' in sys.orig_argv: time.sleep({delay})\n"
    )
    program = run.start(PLAIN + "loop(2000)\n", path=(run.folder / "site",))
    program.worker()
    os.kill(program.pid, signal.SIGKILL)
    run.assert_nothing_left(had_memory=False)


@pytest.mark.slow
def test_os_exit_in_training_step(run: Session, lightning):
    program = run.start(
        LIGHTNING
        + """
def leave(number):
    if told("leave"):
        os._exit(7)

fit(SpectralMonitor(every_n_steps=1), until="never", big=2000, in_step=leave)
""",
        server=lightning,
    )
    program.busy_worker(0.1)
    (run.folder / "leave").touch()
    assert program.wait() == 7
    run.assert_nothing_left()


@pytest.mark.slow
def test_interpreter_exit_without_close(run: Session, lightning):
    """Another callback raises in ``on_exception``, so ours is not notified that training has ended."""
    program = run.start(
        LIGHTNING
        + """
import pytorch_lightning

class Broken(pytorch_lightning.Callback):
    def on_exception(self, trainer, module, exception):
        raise RuntimeError("broken callback")

def fail(number):
    if told("fail"):
        raise ValueError("broken step")

fit(Broken(), SpectralMonitor(every_n_steps=1), until="never", big=2000, in_step=fail)
""",
        server=lightning,
    )
    program.busy_worker(0.1)
    (run.folder / "fail").touch()
    assert program.wait(20) == 1
    assert "broken callback" in program.output
    run.assert_nothing_left()


# --- Lightning: the worker dies, an output fails ---------------------------------------------------------------------

WATCHED = (
    LIGHTNING
    + """
import warnings
set_layer_timeout({timeout})
callback = SpectralMonitor(every_n_steps=1, deterministic={deterministic}, timeout=30)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    trainer = fit(callback, until="end", big={big})
save([str(each.message) for each in caught if "ww_callbacks" in str(each.message)], "warnings.json")
save([[each.to_dict() for each in report] for report in callback.history])
"""
)


def finish_with_results(run: Session, program) -> list[str]:
    """End training and check that the last snapshot is complete. Return the reasons of all failed layers."""
    (run.folder / "end").touch()
    program.succeed()
    assert run.json("warnings.json") == []
    reports = run.json()
    assert [layer["status"] for layer in reports[-1] if layer["M"] >= 20] == ["ok"] * (len(reports[-1]) - 1)
    run.assert_nothing_left()
    return [layer["reason"] for report in reports for layer in report if layer["status"] == "failed"]


def test_worker_killed_at_work(run: Session, lightning):
    program = run.start(WATCHED.format(deterministic=False, timeout=60, big=1500), server=lightning)
    program.reaches("training")
    worker = program.busy_worker(0.5)
    os.kill(worker, signal.SIGKILL)
    program.busy_worker(0.1, other_than=worker)
    assert finish_with_results(run, program) == ["the worker process ended with status -9"]


def test_worker_killed_while_idle(run: Session):
    """No layer is pending. If one fails nevertheless, its reason must be that the worker process ended."""
    program = run.start(
        IMPORTS
        + """
model = {"fc": weights_at(0)}
with ww.Monitor(model, every_n_steps=1) as monitor:
    assert monitor.wait_for_first()
    reached("idle")
    while not told("killed"):
        time.sleep(0.01)
    for step in (1, 2):
        monitor.snapshot(step)
        while len(monitor.history) < step + 1:
            time.sleep(0.01)
            monitor.step(step)
save([[each.to_dict() for each in report] for report in monitor.history])
"""
    )
    program.reaches("idle")
    os.kill(program.worker(), signal.SIGKILL)
    run.assert_worker_gone()
    (run.folder / "killed").touch()
    program.succeed()
    layers = [layer for report in run.json() for layer in report]
    assert [layers[0]["status"], layers[2]["status"]] == ["ok", "ok"]
    assert layers[1]["status"] == "ok" or "the worker process ended" in layers[1]["reason"], layers[1]["reason"]
    run.assert_nothing_left()


@pytest.mark.slow
def test_worker_stopped(run: Session, lightning):
    program = run.start(WATCHED.format(deterministic=False, timeout=5, big=0), server=lightning)
    program.reaches("training")
    worker = program.busy_worker(0.05)
    os.kill(worker, signal.SIGSTOP)
    program.worker(other_than=worker)
    assert finish_with_results(run, program) == []  # small layers are sent again, one by one


@pytest.fixture(scope="module")
def unwritable(tmp_path_factory, lightning):
    """One program that trains once for each unwritable path, because Lightning takes seconds to start."""
    with session(tmp_path_factory.mktemp("unwritable")) as run:
        run.run(
            LIGHTNING
            + """
import warnings
for path in ("/dev/full", "results"):
    callback = SpectralMonitor(every_n_steps=5, deterministic=True, jsonl=path)
    if path == "results":
        os.mkdir(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(callback, steps=20)
    assert trainer.global_step == 20
    name = os.path.basename(path)
    save([str(each.message) for each in caught if "ww_callbacks" in str(each.message)], f"{name}-warnings.json")
    save(outcome(callback.history), f"{name}.json")
""",
            server=lightning,
        )
        yield run


@pytest.mark.parametrize("full", [True, False], ids=["device is full", "path is a directory"])
def test_unwritable_jsonl_causes_one_warning(unwritable: Session, full):
    run, name = unwritable, "full" if full else "results"
    messages = run.json(f"{name}-warnings.json")
    assert len(messages) == 1
    assert ("JsonlOutput" if full else "results are not written") in messages[0]
    assert [step for step, _ in run.json(f"{name}.json")] == [0, 5, 10, 15, 20]
    run.assert_nothing_left(had_memory=False)


# --- the plain loop --------------------------------------------------------------------------------------------------

PLAIN = (
    IMPORTS
    + """
import numpy as np
def loop(size):
    model = {"fc": np.random.default_rng(0).standard_normal((size, size), np.float32)}
    with ww.Monitor(model, every_n_steps=1) as monitor:
        for step in range(1, 10**9):
            model["fc"][0, 0] = step
            monitor.step(step)
            time.sleep(0.005)
            if told("fail"):
                raise KeyError("of the loop")
"""
)


def test_plain_loop_exception(run: Session):
    program = run.start(
        PLAIN
        + """
try:
    loop(2000)
except KeyError as error:
    assert error.args == ("of the loop",) and error.__context__ is None
    reached("caught")
while not told("looked"):
    time.sleep(0.01)
"""
    )
    program.busy_worker(0.1)
    run.memory()
    (run.folder / "fail").touch()
    program.reaches("caught")
    run.assert_worker_gone()
    assert not run.memory()
    (run.folder / "looked").touch()
    program.succeed()
    run.assert_nothing_left()


def test_plain_loop_sigkill_in_the_eigensolver(run: Session):
    program = run.start(PLAIN + "loop(3000)\n", environment=IN_EIGENSOLVER)
    program.worker_in_eigensolver()
    os.kill(program.pid, signal.SIGKILL)
    run.assert_nothing_left()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_plotting_process_exits_with_its_trainer(run: Session, sent):
    program = run.start(
        IMPORTS
        + """
model = {"fc": weights_at(0)}
with ww.Monitor(model, every_n_steps=1, log_dir="logs") as monitor:
    for step in range(1, 10**9):
        model["fc"][:] = weights_at(step)
        monitor.step(step)
        time.sleep(0.005)
"""
    )
    wait_until(lambda: len(run.workers()) == 2, "one worker that analyses and one that plots")
    os.kill(program.pid, sent)
    program.wait()
    run.assert_nothing_left()


def test_plain_loop_never_closed(run: Session):
    """The interpreter exits while the worker is busy. It does not wait for the worker and leaves nothing behind."""
    program = run.start(
        PLAIN
        + """
model = {"fc": np.random.default_rng(0).standard_normal((4000, 4000), np.float32)}
monitor = ww.Monitor(model, every_n_steps=1)
monitor.start()
while not told("leave"):
    time.sleep(0.01)
"""
    )
    program.busy_worker(0.3)
    (run.folder / "leave").touch()
    program.succeed(timeout=5)
    assert "neither finish() nor close() was called: the results of step 0 are dropped" in program.output
    run.assert_nothing_left()


def test_consecutive_monitors_leak_nothing(run: Session):
    """No descriptor, thread, child or mapping remains. Every second monitor is closed while results are pending."""
    run.run(
        IMPORTS
        + """
import gc, json, threading

def counts():
    gc.collect()
    maps = open("/proc/self/maps").read()
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    return [len(os.listdir("/proc/self/fd")), threading.active_count(), len(children), maps.count("memfd:ww_callbacks")]

def cycle(number):
    model = {"fc": weights_at(number, 400, 300)}
    monitor = ww.Monitor(model, every_n_steps=1)
    monitor.start()
    if number % 2:
        monitor.finish(1)
        assert [report.step for report in monitor.history] == [0, 1]
    else:
        monitor.close()

seen = []
for number in range(4):
    cycle(number)
    seen.append(counts())
save(seen)
"""
    )
    seen = run.json()
    assert seen[1:] == [seen[1]] * 3
    assert seen[1][2:] == [0, 0]
    run.assert_nothing_left(had_memory=False)
