import contextlib
import gc
import json
import math
import os
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from processes import eventually, no_worker_left

from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer
from ww_callbacks.worker.deadline import cpu_seconds
from ww_callbacks.worker.environment import worker_environment
from ww_callbacks.worker.process_pool import ProcessPool
from ww_callbacks.worker.restarts import MAX_CRASHES
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer
from ww_callbacks.worker.task import make_task, read_answer, run_task
from ww_callbacks.worker.worker_process import WorkerProcess

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and /proc"),
]

SHAPES = {
    "small": (90, 60),
    "other": (60, 70),
    "not finite": (60, 50),
    "middle": (700, 700),
    "slow": (1200, 1200),
    "slowest": (2000, 2000),
}


@lru_cache
def weights_of(name):
    made = np.random.default_rng(0).standard_normal(SHAPES[name])
    if name == "not finite":
        made[3, 4] = math.nan
    return made


def gone(pid):
    return not psutil.pid_exists(pid)


def pipes_and_memory():
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(entry))
    return {link for link in found if link.startswith(("pipe:", "/memfd:"))}


@pytest.fixture(autouse=True)
def no_leaks():
    files = pipes_and_memory()
    with no_worker_left():
        yield
        gc.collect()
    assert eventually(lambda: not pipes_and_memory() - files, 2.0), pipes_and_memory() - files


class PendingReport:
    """A pending task whose result is read as a LayerReport."""

    def __init__(self, future, spec, step):
        self.future, self.spec, self.step = future, spec, step
        self.done = future.done

    def result(self, timeout=None):
        return read_answer(self.future.result(timeout), self.spec, self.step)


class Bench:
    """Weights in shared memory, and a worker for them."""

    def __init__(self, *names, **arguments):
        self.names = names or ("small", "other", "not finite")
        self.buffer = SnapshotBuffer([(SHAPES[name], np.dtype("f8")) for name in self.names], slots=1)
        self.slot = self.buffer.take([partial(weights_of, name) for name in self.names])
        self.worker = ProcessPool(self.buffer, **arguments)

    def spec(self, name):
        return LayerSpec(name, "Linear", SHAPES[name], "float64", ((), (0,), (1,)))

    def stored(self, name):
        return self.buffer.array(self.slot, self.names.index(name))

    def submit(self, name="small", step=5):
        task = make_task(self.spec(name), Settings(), step)
        return PendingReport(self.worker.submit(run_task, task, self.stored(name)), self.spec(name), step)

    @property
    def pid(self):
        """Process id of the only worker; None if it is not running."""
        return next(iter(self.worker.pids), None)

    def run(self, name="small"):
        return self.submit(name).result(timeout=100)

    def start_slow(self, name="slowest"):
        """A running task that takes a second, and the id of its process."""
        assert self.run().status == "ok"
        before = cpu_seconds(self.pid)
        pending = self.submit(name)
        assert eventually(lambda: cpu_seconds(self.pid) > before + 0.05, 60.0)
        return pending, self.pid

    def close(self):
        self.worker.shutdown()
        self.buffer.close()


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def slow_bench():
    made = Bench("small", "slowest")
    yield made
    made.close()


@pytest.fixture(scope="module")
def started():
    """A bench whose worker is running, for tests that leave it as it is."""
    made = Bench("small", "other", "not finite", "slow")
    assert made.run().status == "ok"
    yield made
    made.close()


def test_results_equal_those_of_this_process_in_submission_order(started):
    names = ["small", "other", "small", "other"]
    futures = [started.submit(name, step) for step, name in enumerate(names)]
    for step, (name, future) in enumerate(zip(names, futures, strict=True)):
        expected = analyze_layer(started.spec(name), weights_of(name), Settings(), step)
        assert future.result(timeout=100).to_dict() == expected.to_dict()


DTYPES = ("float16", "bfloat16", "float32")


def convolution(dtype):
    spec = LayerSpec("conv", "Conv2d", (40, 30, 2, 2), dtype, ((2, 3), (0,), (1,)), True)
    stored = np.random.default_rng(0).integers(15000, 16500, spec.shape).astype("u2")
    return spec, stored if dtype == "bfloat16" else (stored / 1000).astype(dtype)


@pytest.fixture(scope="module")
def convolutions():
    """The buffer and the started worker of a convolution in each dtype."""
    specs, arrays = zip(*map(convolution, DTYPES), strict=True)
    buffer = SnapshotBuffer([(spec.shape, spec.storage_dtype) for spec in specs], slots=1)
    slot = buffer.take([lambda stored=stored: stored for stored in arrays])
    worker = ProcessPool(buffer)
    worker.submit(run_task, make_task(specs[0], Settings(), None), buffer.array(slot, 0)).result(timeout=100)
    yield buffer, slot, worker
    worker.shutdown()
    buffer.close()


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_the_same_for_all_dtypes_and_convolutions(convolutions, dtype):
    buffer, slot, worker = convolutions
    spec, stored = convolution(dtype)
    task = make_task(spec, Settings("paper"), None)
    future = worker.submit(run_task, task, buffer.array(slot, DTYPES.index(dtype)))
    report = read_answer(future.result(timeout=100), spec, None)
    assert report == analyze_layer(spec, stored, Settings("paper"))
    assert report.alpha is not None


def test_process_starts_with_the_first_task_and_is_reused(bench):
    assert bench.pid is None
    bench.run()
    pid = bench.pid
    assert pid != os.getpid()
    bench.run()
    assert bench.pid == pid


def test_non_finite_weights_fail_and_the_next_layer_is_analysed(started):
    report = started.run("not finite")
    assert (report.status, report.reason) == ("failed", "non-finite weights")
    assert started.run("other").status == "ok"


def test_killed_worker_fails_its_layer_and_is_restarted(slow_bench):
    future, pid = slow_bench.start_slow()
    os.kill(pid, signal.SIGKILL)
    report = future.result(timeout=20)
    assert (report.name, report.status, report.step) == ("slowest", "failed", 5)
    assert "the worker process ended with status -9" in report.reason
    assert slow_bench.run().status == "ok"
    assert slow_bench.pid != pid
    assert gone(pid)


def test_worker_killed_while_idle_fails_at_most_one_layer(bench):
    bench.run()
    os.kill(bench.pid, signal.SIGKILL)
    bench.run()
    assert bench.run().status == "ok"


def test_crashes_with_results_in_between_do_not_accumulate(bench):
    for _ in range(MAX_CRASHES + 1):
        assert bench.run().status == "ok"
        pid = bench.pid
        os.kill(pid, signal.SIGKILL)
        bench.run()  # fails unless the death was noticed before the task was sent
    assert bench.worker.broken == ""


def test_hanging_worker_fails_its_layer_and_is_restarted():
    bench = Bench(layer_timeout=20)
    assert bench.run().status == "ok"
    pid = bench.pid
    bench.worker._processes[0]._timeout = 1.0  # a short limit is safe after the process has started
    os.kill(pid, signal.SIGSTOP)
    report = bench.run()
    assert report.status == "failed"
    assert "no answer within 1 s" in report.reason
    assert gone(pid)
    bench.worker._processes[0]._timeout = 20.0
    assert bench.run().status == "ok"
    bench.close()


def test_slow_worker_is_not_considered_hanging():
    bench = Bench("middle")
    assert bench.run("middle").status == "ok"
    before = cpu_seconds(bench.pid)
    assert bench.run("middle").status == "ok"
    needed = cpu_seconds(bench.pid) - before
    limit = max(10 * needed, 1.5)
    bench.worker._processes[0]._timeout = limit
    pid, start = bench.pid, time.monotonic()
    pending = bench.submit("middle")
    while not pending.done():  # the worker computes a sixth of the layer, then stops for half of the limit
        seen = cpu_seconds(pid)
        assert eventually(lambda: pending.done() or cpu_seconds(pid) > seen + needed / 6, 60.0)  # noqa: B023
        os.kill(pid, signal.SIGSTOP)
        time.sleep(limit / 2)
        os.kill(pid, signal.SIGCONT)
    assert pending.result().status == "ok"
    assert bench.pid == pid
    assert time.monotonic() - start > limit
    bench.close()


@pytest.mark.parametrize("seconds", [1e10, math.inf])
def test_huge_timeouts_work(seconds):
    bench = Bench(layer_timeout=seconds)
    try:
        assert bench.submit().result(timeout=100).status == "ok"
    finally:
        bench.close()


def test_numpy_integer_step_is_accepted_or_refused(started):
    try:
        future = started.submit(step=np.int64(7))
    except TypeError:
        return
    assert future.result(timeout=5).step == 7


def fake_python(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_failing_interpreter_is_not_restarted_and_its_last_line_is_reported(tmp_path, monkeypatch):
    starts = tmp_path / "starts"
    script = f"echo x >> {starts}; echo first >&2; echo 'no numpy here' >&2; exit 3"
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path / "python", script))
    bench = Bench()
    for crashes in range(1, MAX_CRASHES + 3):
        report = bench.run()
        assert report.status == "failed"
        assert "ended with status 3; last line of its output: no numpy here" in report.reason
        assert bool(bench.worker.broken) == (crashes >= MAX_CRASHES)
    assert f"{MAX_CRASHES} times in a row" in bench.worker.broken
    assert "no numpy here" in bench.worker.broken
    assert len(starts.read_text().splitlines()) == MAX_CRASHES
    assert bench.pid is None
    bench.close()


def test_missing_interpreter_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    bench = Bench()
    report = bench.run()
    assert report.status == "failed"
    assert "could not be started" in report.reason
    assert "nothing" in report.reason
    bench.close()


def test_interpreter_with_invalid_output_is_reported(tmp_path, monkeypatch):
    find = "while [ $1 != --answers ]; do shift; done"
    script = f"{find}; echo Welcome to this shell > /proc/self/fd/$2; exec sleep 30"
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path / "python", script))
    bench = Bench()
    report = bench.run()
    assert report.status == "failed"
    assert "invalid answer from the worker" in report.reason
    bench.close()


def test_wrong_hello_is_refused(tmp_path, monkeypatch):
    code = (
        "import os, sys; from ww_callbacks.worker.protocol import encode; "
        "os.write(int(sys.argv[sys.argv.index('--answers') + 1]), encode({'bye': 1}))"
    )
    real = sys.executable
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path / "python", f'exec {real} -c "{code}" "$@"'))
    bench = Bench()
    assert "expected a hello" in bench.run().reason
    bench.close()


def test_shutdown_stops_a_running_task_and_its_future(slow_bench):
    running, pid = slow_bench.start_slow()
    waiting = slow_bench.submit()
    slow_bench.worker.shutdown()
    assert gone(pid)
    assert slow_bench.pid is None
    with contextlib.suppress(CancelledError):
        assert running.result(timeout=2).status == "failed"
    with pytest.raises(CancelledError):
        waiting.result(timeout=2)


def test_shutdown_without_wait_stops_everything(slow_bench):
    running, pid = slow_bench.start_slow()
    slow_bench.worker.shutdown(wait=False)
    assert eventually(lambda: gone(pid), 2.0)
    assert eventually(running.done, 2.0)


def test_no_tasks_after_shutdown_and_shutdown_can_be_repeated(bench):
    bench.run()
    bench.worker.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        bench.submit()
    bench.worker.shutdown()
    bench.worker.shutdown(wait=False, cancel_futures=True)


def test_shutdown_before_the_first_task_starts_nothing(bench):
    bench.worker.shutdown()
    assert bench.pid is None
    with pytest.raises(RuntimeError, match="shut down"):
        bench.submit()


def test_with_block_stops_the_process(bench):
    with bench.worker:
        bench.run()
        pid = bench.pid
    assert gone(pid)


def test_garbage_collected_executor_stops_its_process_and_thread():
    threads = set(threading.enumerate())
    bench = Bench("small", "slowest")
    _future, pid = bench.start_slow()
    bench.buffer.close()
    del bench
    gc.collect()
    assert eventually(lambda: gone(pid), 2.0)
    assert eventually(lambda: set(threading.enumerate()) <= threads, 2.0)


def test_other_functions_are_refused(bench):
    with pytest.raises(TypeError, match="runs run_task only"):
        bench.worker.submit(print, make_task(bench.spec("small"), Settings(), 5), bench.stored("small"))
    assert bench.pid is None


def test_weights_outside_the_shared_memory_are_refused(started):
    with pytest.raises(ValueError, match="not a view of this buffer"):
        started.worker.submit(run_task, make_task(started.spec("small"), Settings(), 5), weights_of("small"))
    assert started.run().status == "ok"


@pytest.mark.linux_way
def test_process_has_one_thread_low_priority_and_no_ranks_or_devices(bench, monkeypatch):
    for name, value in {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "x", "PL_X": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    monkeypatch.setenv("UNRELATED", "kept")
    bench.run()
    process = psutil.Process(bench.pid)
    environment = process.environ()
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "PL_X"} & set(environment)
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["MKL_NUM_THREADS"] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["UNRELATED"] == "kept"
    assert process.nice() == 19
    assert process.num_threads() == 1
    assert process.ppid() == os.getpid()
    assert os.environ["OMP_NUM_THREADS"] == "16"  # unchanged in this process


def test_worker_ignores_ctrl_c(started):
    future, pid = started.start_slow("slow")
    os.kill(pid, signal.SIGINT)
    assert started.run().status == "ok"
    assert future.result(timeout=100).status == "ok"
    assert started.pid == pid


@pytest.mark.linux_way
def test_process_maps_weights_read_only_and_inherits_no_other_descriptor(bench, tmp_path):
    with (tmp_path / "mine").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        bench.run()
        pid = bench.pid
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not any("mine" in link for link in links)
    mapped = [line for line in open(f"/proc/{pid}/maps") if "memfd:ww_callbacks" in line]  # noqa: SIM115
    assert mapped
    assert all(line.split()[1].startswith("r-") for line in mapped)


def test_process_imports_numpy_and_scipy_but_no_framework(started):
    started.run()
    homes = {}
    for line in open(f"/proc/{started.pid}/maps"):  # noqa: SIM115
        assert "/scipy/optimize/" not in line, "it takes a third of the worker's start, and only options need it"
        if "/site-packages/" in line:
            package = line.split("/site-packages/")[1].split("/")[0].strip()
            homes[package.removesuffix(".libs")] = line
    assert {"numpy", "scipy"} <= set(homes)
    allowed = ("numpy", "scipy", "charset_normalizer")
    assert all(name in allowed or name.startswith("_cyutility") for name in homes), homes


def test_environment_keeps_the_users_python_path(tmp_path):
    made = worker_environment({"PYTHONPATH": str(tmp_path), "WANDB_MODE": "online", "HOME": "/root"})
    assert str(tmp_path) in made["PYTHONPATH"].split(os.pathsep)
    assert made["HOME"] == "/root"
    assert "WANDB_MODE" not in made


def test_modules_in_the_working_directory_are_not_imported(tmp_path, monkeypatch):
    for name in ("numpy", "json", "ww_callbacks", "scipy"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')")
    monkeypatch.chdir(tmp_path)
    bench = Bench()
    assert bench.run().status == "ok"
    bench.close()


def test_output_of_usercustomize_does_not_disturb_the_protocol(tmp_path, monkeypatch):
    (tmp_path / "usercustomize.py").write_text("import sys; print('hello from site', file=sys.stderr)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    bench = Bench()
    assert bench.run().status == "ok"
    bench.close()


def test_report_is_plain_json(started):
    assert json.loads(json.dumps(started.run().to_dict()))["status"] == "ok"


def test_the_lifeline_of_other_systems_works():
    bench = Bench(lifeline_method="thread")
    assert bench.run().status == "ok"
    bench.close()


def test_shutdown_closes_the_log_file(bench):
    def open_files():
        return {fd for fd in os.listdir("/proc/self/fd") if "(deleted)" in link_of(fd) and "memfd" not in link_of(fd)}

    def link_of(fd):
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            return ""

    before = open_files()
    bench.run()
    bench.worker.shutdown()
    assert open_files() == before


@contextlib.contextmanager
def small_layers(count):
    """A pool, and a function that submits this many small layers in one message and returns how to read the answers."""
    specs = [LayerSpec(f"fc{i}", "Linear", (90, 60), "float64", ((), (0,), (1,))) for i in range(count)]
    arrays = [np.random.default_rng(i).standard_normal((90, 60)) for i in range(count)]
    with contextlib.closing(SnapshotBuffer([(spec.shape, np.dtype("f8")) for spec in specs], slots=1)) as buffer:
        slot = buffer.take([lambda array=array: array for array in arrays])
        pool = ProcessPool(buffer)

        def submit(**changes):
            tasks = [make_task(spec, Settings(), 5) | changes.get(spec.name, {}) for spec in specs]
            future = pool.submit_together([(task, buffer.array(slot, index), None) for index, task in enumerate(tasks)])
            answers = lambda: future.result(100)["answers"]  # noqa: E731
            return lambda: [read_answer(each, spec, 5) for each, spec in zip(answers(), specs, strict=True)]

        yield (
            pool,
            submit,
            [analyze_layer(spec, array, Settings(), 5) for spec, array in zip(specs, arrays, strict=True)],
        )
        pool.shutdown()


def test_small_layers_are_sent_together_and_an_error_fails_its_layer_only(monkeypatch):
    sent: list[int] = []
    ask = WorkerProcess.ask

    def counted(process, message, name):
        sent.append(len(message.get("tasks", [message])))
        return ask(process, message, name)

    monkeypatch.setattr(WorkerProcess, "ask", counted)
    with small_layers(12) as (_, submit, expected):
        reports = submit(fc7={"settings": {"beauty": 1}})()
    assert sent == [12]
    assert "beauty" in reports[7].reason
    assert reports[:7] + reports[8:] == expected[:7] + expected[8:]


def test_a_worker_killed_while_it_has_several_small_layers_costs_at_most_one():
    with small_layers(12) as (pool, submit, expected):
        assert submit()() == expected
        (pid,) = pool.pids
        results = submit()
        os.kill(pid, signal.SIGKILL)
        assert [report.status for report in results()].count("failed") <= 1  # if it was killed in the second attempt
        assert gone(pid)
        assert submit()() == expected
