"""Helpers of the integration tests: run programs as real processes and check that nothing is left of them.

Every program has a mark in its environment, which its children inherit, and a separate session. With these the tests
find all processes of a program, even indirect children. Shared memory is tracked by inode on the whole machine.
Other programs do not affect the checks, so these tests can run in parallel with others.

The programs also import this module. It imports a framework only in the functions that need one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from fork_server import ForkedProcess, ForkServer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MARK = "WW_TEST_ID"
MEMORY = "memfd:ww_callbacks"

# Threads that wait for each other in a busy loop take minutes if other programs use the processors too.
SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}

IN_EIGENSOLVER = {"PYTHONPATH": os.pathsep.join(map(str, [HERE / "in_eigensolver", ROOT, HERE]))}
"""Variables of programs whose worker tells when it computes eigenvalues."""

EVENT_TIMEOUT = 60.0
"""Seconds to wait for an event that may take long on a busy machine."""
WORKER_EXIT_TIMEOUT = 2.0
"""Seconds in which a worker must exit after its trainer."""
LOADER_CHECK_INTERVAL = 0.5
"""Seconds between the checks of forked DataLoader workers that their trainer is alive. torch's default is 5."""
LOADER_EXIT_TIMEOUT = 20.0
"""Seconds in which DataLoader workers must exit after their trainer."""


# --- in the tests: processes and memory ------------------------------------------------------------------------------


def require(package: str) -> None:
    """Skip a test whose programs need a package. Importing Dask here would change how exceptions are pickled."""
    import pytest

    if find_spec(package) is None:
        pytest.skip(f"needs {package}")


def wait_until(condition: Callable[[], Any], what: str, timeout: float = EVENT_TIMEOUT) -> Any:
    """Wait until ``condition`` returns a true value, and return it. Raise AssertionError after ``timeout`` seconds."""
    start = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - start
        if waited > timeout:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(min(max(0.01, waited / 20), 0.1))  # scanning all processes takes CPU time
    return value


def command_line(pid: int) -> str:
    return proc_file(pid, "cmdline").replace("\0", " ")


def is_worker(pid: int) -> bool:
    return "ww_callbacks.worker" in command_line(pid)


def mappings(pid: int) -> set[int]:
    """Inodes of our shared memory that a process has open or mapped."""
    inodes = {int(line.split()[4]) for line in proc_file(pid, "maps").splitlines() if MEMORY in line}
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if MEMORY in os.readlink(f"/proc/{pid}/fd/{fd}"):
                    inodes.add(os.stat(f"/proc/{pid}/fd/{fd}").st_ino)
    return inodes


def named_memory(pid: int) -> set[str]:
    """Files in /dev/shm that a process maps."""
    paths = (line.split(maxsplit=5)[-1] for line in proc_file(pid, "maps").splitlines())
    return {path for path in paths if path.startswith("/dev/shm/")}


def cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def proc_file(pid: int, name: str) -> str:
    """Contents of a file of /proc, or "" if the process no longer exists."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat, starting with the state, or [] if the process no longer exists."""
    return proc_file(pid, "stat").rpartition(")")[2].split()


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] in ([], ["Z"], ["X"])


def _session_of(pid: int) -> int:
    return int((_stat(pid)[3:4] or ["-1"])[0])


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


class Program:
    """A running script in a separate process group."""

    def __init__(self, session: Session, popen: subprocess.Popen[bytes] | ForkedProcess, output: Path) -> None:
        self._session, self.popen, self._output = session, popen, output
        self.pid = popen.pid

    @property
    def output(self) -> str:
        """The output on stdout and stderr so far."""
        return self._output.read_text(errors="replace")

    def wait(self, timeout: float = EVENT_TIMEOUT) -> int:
        """Wait for the script to exit and return its status."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the program did not end within {timeout:g} s:\n{self.output}") from None

    def succeed(self, timeout: float = EVENT_TIMEOUT) -> Program:
        status = self.wait(timeout)
        assert status == 0, f"status {status}\n{self.output}"
        return self

    def alive(self) -> bool:
        return self.popen.poll() is None

    def reaches(self, name: str) -> None:
        """Wait until the script has called ``reached(name)``."""
        self._while_alive(lambda: (self._session.folder / name).exists(), f"the program reaches {name!r}")

    def worker(self, *, other_than: int | None = None) -> int:
        """Wait for a worker process and return its process id."""
        candidates = lambda: [pid for pid in self._session.workers() if pid != other_than]  # noqa: E731
        return self._while_alive(candidates, "a worker process")[0]

    def busy_worker(self, seconds: float = 1.0, *, other_than: int | None = None) -> int:
        """Wait for a worker that has used ``seconds`` of CPU time after its startup, and return its process id."""
        pid = self.worker(other_than=other_than)
        self._while_alive(lambda: MEMORY in proc_file(pid, "maps"), "the worker maps the memory")
        start = cpu_seconds(pid)
        self._while_alive(lambda: cpu_seconds(pid) > start + seconds, "the worker computes")
        return pid

    def worker_in_eigensolver(self) -> int:
        """Wait for a worker that computes the eigenvalues of a 3000 × 3000 layer, and return its process id.

        The program has to be started with the variables :data:`IN_EIGENSOLVER`.
        """
        self.reaches("eigensolver entered")
        time.sleep(0.2)  # the call takes seconds
        assert not (self._session.folder / "eigensolver left").exists(), "the eigenvalues were computed too early"
        (pid,) = self._session.workers()
        return pid

    def _while_alive(self, condition: Callable[[], Any], what: str) -> Any:
        def look() -> Any:
            value = condition()
            if not value and not self.alive():
                value = condition()
                assert value, f"the program ended before: {what}\n{self.output}"
            return value

        return wait_until(look, what)


class Session:
    """The programs of one test, their processes and their memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = f"ww-{uuid.uuid4().hex}"
        self._older = set(_all_pids())  # older than the programs; not scanned, to save CPU time
        self._programs: list[Program] = []
        self._seen_memory: set[int] = set()
        self._seen_named: set[str] = set()

    def start(
        self,
        code: str,
        *arguments: str,
        folder: Path | None = None,
        stdin: bool = False,
        path: tuple[Path, ...] = (),
        environment: dict[str, str] | None = None,
        shell: str = "",
        server: ForkServer | None = None,
    ) -> Program:
        """Write ``code`` to a file and start it as a script.

        Args:
            code: code of the script, may be indented.
            arguments: arguments of the script.
            folder: folder and working directory of the script.
            stdin: pass the script to ``python -`` on stdin instead.
            path: folders to add at the start of PYTHONPATH.
            environment: additional variables. In a forked program, variables that libraries read at import have no
                effect.
            shell: redirections for the start of the script, such as ``>&-``.
            server: fork server that starts the program instead of a new interpreter. Cannot be combined with
                ``stdin``, ``path`` or ``shell``.
        """
        folder = folder or self.folder
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "script.py"
        script.write_text(textwrap.dedent(code))
        command = [sys.executable, "-" if stdin else str(script), *arguments]
        if shell:
            command = ["sh", "-c", f'exec "$0" "$@" {shell}', *command]
        output = self.folder / f"output-{len(self._programs)}.txt"
        variables = program_environment(*path) | {MARK: self.id, "WW_TEST_FOLDER": str(self.folder)}
        variables |= environment or {}
        if server is not None:
            assert not any((stdin, path, shell)), "not supported for a forked program"
            return self._add_program(ForkedProcess(server, command[1:], folder, variables, output), output)
        with script.open() as source, output.open("wb") as log:
            popen = subprocess.Popen(
                command,
                cwd=folder,
                env=variables,
                stdin=source if stdin else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._add_program(popen, output)

    def _add_program(self, popen: subprocess.Popen[bytes] | ForkedProcess, output: Path) -> Program:
        program = Program(self, popen, output)
        self._programs.append(program)
        return program

    def run(self, code: str, *arguments: str, **options: Any) -> Program:
        """Run ``code`` and check that it exits with status 0."""
        return self.start(code, *arguments, **options).succeed()

    def run_main(self, preamble: str, body: str, timeout: float = EVENT_TIMEOUT) -> None:
        """Run ``body`` with a main guard, for executors that spawn processes, and check that nothing is left."""
        program = self.start(f'{preamble}\nif __name__ == "__main__":\n{textwrap.indent(body.strip(), "    ")}\n')
        program.succeed(timeout)
        self.assert_nothing_left(timeout=10.0, had_memory=False)

    def processes(self) -> list[int]:
        """Return all living processes that these programs started, directly or not, and record their memory."""
        new = set(_all_pids()) - self._older
        pids = sorted(pid for pid in new if self._owns(pid) and not _is_zombie(pid))
        for pid in pids:
            self._seen_memory |= mappings(pid)
            self._seen_named |= named_memory(pid)
        return pids

    def _owns(self, pid: int) -> bool:
        """Check the mark, and the session: forked programs and their children have the environment of the server."""
        return f"{MARK}={self.id}" in proc_file(pid, "environ") or _session_of(pid) in {p.pid for p in self._programs}

    def workers(self) -> list[int]:
        return [pid for pid in self.processes() if is_worker(pid)]

    def memory(self) -> set[int]:
        """Inodes of the shared memory of these programs that any process on this machine still holds."""
        self.processes()
        held = set().union(*map(mappings, _all_pids()))
        return held & self._seen_memory

    def assert_worker_gone(self) -> None:
        """Check that the worker exits immediately, even if the program continues."""
        wait_until(lambda: not self.workers(), "the worker process is gone", WORKER_EXIT_TIMEOUT)

    def assert_nothing_left(self, timeout: float = WORKER_EXIT_TIMEOUT, *, had_memory: bool = True) -> None:
        """Check that no process and no memory is left: the worker exits immediately, the others within ``timeout``."""
        self.assert_worker_gone()
        wait_until(lambda: not self.processes(), "all processes are gone", timeout)
        wait_until(lambda: not self.memory(), "the shared memory is freed", WORKER_EXIT_TIMEOUT)
        assert self._seen_memory or not had_memory, "the test never saw the shared memory"
        left = lambda: [path for path in self._seen_named if Path(path).exists()]  # noqa: E731
        wait_until(lambda: not left(), "the files in /dev/shm are gone", WORKER_EXIT_TIMEOUT)

    def end(self) -> None:
        """Kill the remaining processes."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for program in self._programs:
            program.popen.wait()

    def json(self, name: str = "history.json") -> Any:
        return json.loads((self.folder / name).read_text())


def program_environment(*path: Path) -> dict[str, str]:
    """Environment of the programs, with ``path`` at the start of PYTHONPATH."""
    variables = {"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT, HERE])), "PYTHONUNBUFFERED": "1"}
    return os.environ | variables | SLEEPING_THREADS


@contextlib.contextmanager
def session(folder: Path) -> Iterator[Session]:
    """A session whose processes are killed at the end of the ``with`` block."""
    new = Session(folder)
    try:
        yield new
    finally:
        new.end()


# --- in the programs -------------------------------------------------------------------------------------------------


def reached(name: str) -> None:
    """Tell the test that the program has reached the point ``name``."""
    path = Path(os.environ["WW_TEST_FOLDER"]) / name
    path.touch()


def told(name: str) -> bool:
    """Whether the test or the program has created the file ``name``."""
    return (Path(os.environ["WW_TEST_FOLDER"]) / name).exists()


def weights_at(step: int, rows: int = 90, columns: int = 60) -> np.ndarray:
    """Reproducible heavy-tailed weights, the same in the test and in the program."""
    return np.random.default_rng(step).standard_t(3, (rows, columns))


def set_layer_timeout(seconds: float) -> None:
    """Set the time limit for the analysis of a layer in this program."""
    from dataclasses import replace

    from ww_callbacks.monitor.options import Options

    limits = Options.limits
    Options.limits = lambda self: replace(limits(self), layer_timeout=seconds)


def watch(monitor: Any, model: dict[str, np.ndarray], steps: int = 3) -> list[Any]:
    """Run a user's loop, which changes the weights and calls the monitor. Return the outcome."""
    with monitor:
        for step in range(1, steps + 1):
            model["fc"][:] = weights_at(step)
            monitor.step(step)
    return outcome(monitor.history)


def outcome(history: Any) -> list[Any]:
    """Step of each report and alpha of each of its layers, in types that JSON preserves."""
    return [[report.step, {layer.name: layer.alpha for layer in report.layers}] for report in history]


def save(value: Any, name: str = "history.json") -> None:
    """Write a result for the test, atomically."""
    path = Path(os.environ["WW_TEST_FOLDER"]) / name
    path.with_suffix(".part").write_text(json.dumps(value))
    path.with_suffix(".part").replace(path)


def fit(
    *callbacks: Any,
    distribution: str = "pytorch_lightning",
    steps: int = 30,
    until: str = "",
    big: int = 0,
    loader_workers: int = 0,
    loader_context: str = "fork",
    tensorboard: bool = False,
    in_step: Callable[[int], None] | None = None,
    trainer_options: dict[str, Any] | None = None,
) -> Any:
    """Train with Lightning: two small trained layers, and a big × big layer that is monitored but not trained.

    Args:
        callbacks: callbacks of the Trainer.
        distribution: package of the Trainer.
        steps: number of optimizer steps if ``until`` is not given.
        until: name of a file. Training ends when it exists.
        big: size of the large layer, 0 for none.
        loader_workers: number of persistent DataLoader workers.
        loader_context: start method of the DataLoader workers, "fork" or "spawn".
        tensorboard: whether to log to a TensorBoardLogger.
        in_step: called in each training step with the number of the step.
        trainer_options: other arguments of the Trainer.
    """
    import importlib

    import torch
    from torch import nn

    torch.set_num_threads(1)
    lightning = importlib.import_module(distribution)
    folder = os.environ["WW_TEST_FOLDER"]

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(80, 60), nn.ReLU(), nn.Linear(60, 4))
            self.big = nn.Linear(big, big, bias=False) if big else None
            self.number = 0

        def training_step(self, batch: Any, index: int) -> Any:
            self.number += 1
            if until:
                time.sleep(0.005)
                self.trainer.should_stop = told(until)
            if self.number == 3:
                reached("training")
            if in_step is not None:
                in_step(self.number)
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=0.01)

    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(64 if loader_workers else 16, 80))
    options = {"num_workers": loader_workers, "persistent_workers": loader_workers > 0}
    if loader_workers:
        options["multiprocessing_context"] = loader_context
        torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL = LOADER_CHECK_INTERVAL
    loader = torch.utils.data.DataLoader(data, batch_size=8, **options)
    logger: Any = False
    if tensorboard:
        logger = importlib.import_module(f"{distribution}.loggers").TensorBoardLogger(folder, name="log")
    trainer = lightning.Trainer(
        callbacks=list(callbacks),
        max_steps=-1 if until else steps,
        max_epochs=-1,
        logger=logger,
        accelerator="cpu",
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **(trainer_options or {}),
    )
    trainer.fit(Module(), loader)
    return trainer
