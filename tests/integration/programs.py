"""What the integration tests share: programs run as real processes, and the proof that nothing of them stays.

Every program gets a mark in its environment, which its children inherit, and a session of its own: by them the tests
find all processes of a program, whoever started them. Shared memory is followed by its inode, over the whole machine.
What other programs do meanwhile does not matter, so that these tests may run beside others.

The programs import this module for the training they run; it loads no framework before it is told to.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fork_server import ForkedProcess, ForkServer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MARK = "WW_TEST_ID"
MEMORY = "memfd:ww_callbacks"

# Threads that wait for each other in a busy loop take minutes where other programs want the processors too.
SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}

PATIENCE = 60.0
"""Seconds for anything that has to happen but may take long on a busy machine."""
AT_ONCE = 2.0
"""Seconds in which a worker must be gone once its trainer is."""
LOADER_CHECK = 0.5
"""Seconds after which forked DataLoader workers look whether their trainer lives; 5 by default."""
LOADER_POLL = 20.0
"""Seconds in which they have noticed and ended."""


# --- seen from outside: processes and memory -------------------------------------------------------------------------


def wait_until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """The first true value of ``condition``; an AssertionError where there is none in time."""
    start = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - start
        if waited > timeout:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(min(max(0.01, waited / 20), 0.1))  # to look through all processes takes processor time
    return value


def command_line(pid: int) -> str:
    return proc_file(pid, "cmdline").replace("\0", " ")


def is_worker(pid: int) -> bool:
    return "ww_callbacks.worker" in command_line(pid)


def mappings(pid: int) -> set[int]:
    """Inodes of our shared memory that a process holds, by descriptor or mapping."""
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


def anonymous_bytes(pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", proc_file(pid, "status"))
    return int(found[1]) * 1024 if found else 0


def proc_file(pid: int, name: str) -> str:
    """A file of /proc; empty where the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty where the process is gone."""
    return proc_file(pid, "stat").rpartition(")")[2].split()


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] in ([], ["Z"], ["X"])


def _session_of(pid: int) -> int:
    return int((_stat(pid)[3:4] or ["-1"])[0])


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


class Program:
    """A running script, in a process group of its own."""

    def __init__(self, session: Session, popen: subprocess.Popen[bytes] | ForkedProcess, output: Path) -> None:
        self._session, self.popen, self._output = session, popen, output
        self.pid = popen.pid

    @property
    def output(self) -> str:
        """What it has written to stdout and stderr so far."""
        return self._output.read_text(errors="replace")

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit status of the script."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the program did not end within {timeout:g} s:\n{self.output}") from None

    def succeed(self, timeout: float = PATIENCE) -> Program:
        status = self.wait(timeout)
        assert status == 0, f"status {status}\n{self.output}"
        return self

    def alive(self) -> bool:
        return self.popen.poll() is None

    def reaches(self, name: str) -> None:
        """Wait until the script has called ``reached(name)``."""
        self._while_alive(lambda: (self._session.folder / name).exists(), f"the program reaches {name!r}")

    def worker(self, *, other_than: int | None = None) -> int:
        """Process id of the worker, as soon as there is one."""
        candidates = lambda: [pid for pid in self._session.workers() if pid != other_than]  # noqa: E731
        return self._while_alive(candidates, "a worker process")[0]

    def busy_worker(self, seconds: float = 1.0, *, other_than: int | None = None) -> int:
        """Process id of a worker that has started and computes: used that much time since its start."""
        pid = self.worker(other_than=other_than)
        self._while_alive(lambda: MEMORY in proc_file(pid, "maps"), "the worker maps the memory")
        start = cpu_seconds(pid)
        self._while_alive(lambda: cpu_seconds(pid) > start + seconds, "the worker computes")
        return pid

    def worker_in_eigensolver(self, size: int) -> int:
        """Process id of a worker that computes the eigenvalues of a size × size layer.

        Told from outside by its memory: converted weights and their Gram matrix, then the Gram matrix alone, then
        the Gram matrix and the eigensolver's copy.
        """
        pid, matrix = self.worker(), 8 * size * size
        self._while_alive(lambda: anonymous_bytes(pid) > 1.8 * matrix, "weights and Gram matrix are there")
        self._while_alive(lambda: anonymous_bytes(pid) < 1.7 * matrix, "the weights are freed")
        self._while_alive(lambda: anonymous_bytes(pid) > 1.8 * matrix, "the eigensolver has its copy")
        assert self._session.workers() == [pid]
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
    """The programs of one test, and what exists because of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = f"ww-{uuid.uuid4().hex}"
        self._others = set(_all_pids())  # older than the programs; to look at each of them takes processor time
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
        """Run ``code`` as a script of its own file.

        Args:
            code: of the script; indented text is fine.
            arguments: for the script.
            folder: where the script lies and runs.
            stdin: feed the script to ``python -`` instead.
            path: folders that come first in PYTHONPATH.
            environment: more variables. Those that libraries read at import do not reach a forked program.
            shell: redirections that the script is started with, such as ``>&-``.
            server: forks the program, with a framework already imported, instead of a new interpreter. Not with
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
            assert not any((stdin, path, shell)), "a forked program has them from its server"
            return self._started(ForkedProcess(server, command[1:], folder, variables, output), output)
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
        return self._started(popen, output)

    def _started(self, popen: subprocess.Popen[bytes] | ForkedProcess, output: Path) -> Program:
        program = Program(self, popen, output)
        self._programs.append(program)
        return program

    def run(self, code: str, *arguments: str, **options: Any) -> Program:
        """Run ``code`` to its end, which must be a good one."""
        return self.start(code, *arguments, **options).succeed()

    def processes(self) -> list[int]:
        """All living processes that these programs started, directly or not; their memory is noted."""
        new = set(_all_pids()) - self._others
        pids = sorted(pid for pid in new if self._owns(pid) and not _is_zombie(pid))
        for pid in pids:
            self._seen_memory |= mappings(pid)
            self._seen_named |= named_memory(pid)
        return pids

    def _owns(self, pid: int) -> bool:
        """By the mark; forked programs and what they fork have the environment of their server, but a session."""
        return f"{MARK}={self.id}" in proc_file(pid, "environ") or _session_of(pid) in {p.pid for p in self._programs}

    def workers(self) -> list[int]:
        return [pid for pid in self.processes() if is_worker(pid)]

    def memory(self) -> set[int]:
        """Inodes of the shared memory of these programs that anybody on this machine still holds."""
        self.processes()
        held = set().union(*map(mappings, _all_pids()))
        return held & self._seen_memory

    def assert_worker_gone(self) -> None:
        """The worker ends at once, whatever else goes on."""
        wait_until(lambda: not self.workers(), "the worker process is gone", AT_ONCE)

    def assert_nothing_left(self, timeout: float = AT_ONCE, *, had_memory: bool = True) -> None:
        """No process, no shared memory; the worker gone at once, all others within ``timeout``."""
        self.assert_worker_gone()
        wait_until(lambda: not self.processes(), "all processes are gone", timeout)
        wait_until(lambda: not self.memory(), "shared memory is free", AT_ONCE)
        assert self._seen_memory or not had_memory, "the test has never seen the shared memory it asks for"
        left = lambda: [path for path in self._seen_named if Path(path).exists()]  # noqa: E731
        wait_until(lambda: not left(), "nothing of theirs in /dev/shm", AT_ONCE)

    def end(self) -> None:
        """Kill what is left."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for program in self._programs:
            program.popen.wait()

    def json(self, name: str = "history.json") -> Any:
        return json.loads((self.folder / name).read_text())


def program_environment(*path: Path) -> dict[str, str]:
    """Environment of the programs, with folders that come first in PYTHONPATH."""
    variables = {"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT, HERE])), "PYTHONUNBUFFERED": "1"}
    return os.environ | variables | SLEEPING_THREADS


@contextlib.contextmanager
def session(folder: Path) -> Iterator[Session]:
    """A session whose processes end with it."""
    new = Session(folder)
    try:
        yield new
    finally:
        new.end()


# --- in the programs -------------------------------------------------------------------------------------------------


def reached(name: str) -> None:
    """Tell the test that the program has come so far."""
    path = Path(os.environ["WW_TEST_FOLDER"]) / name
    path.touch()


def told(name: str) -> bool:
    """Whether the test (or the program) has touched the file ``name``."""
    return (Path(os.environ["WW_TEST_FOLDER"]) / name).exists()


def weights_at(step: int, rows: int = 90, columns: int = 60) -> np.ndarray:
    """Weights that everybody can compute, with a heavy tail."""
    return np.random.default_rng(step).standard_t(3, (rows, columns))


def limit_layers(seconds: float) -> None:
    """The analysis of a layer may take so long in this program."""
    from dataclasses import replace

    from ww_callbacks.monitor.options import Options

    limits = Options.limits
    Options.limits = lambda self: replace(limits(self), layer_timeout=seconds)


def watch(monitor: Any, model: dict[str, np.ndarray], steps: int = 3) -> list[Any]:
    """A loop as users write it: weights change, the monitor is told. Returns what came out."""
    with monitor:
        for step in range(1, steps + 1):
            model["fc"][:] = weights_at(step)
            monitor.step(step)
    return outcome(monitor.history)


def outcome(history: Any) -> list[Any]:
    """Step and alpha of each layer of each report, as JSON keeps it."""
    return [[report.step, {layer.name: layer.alpha for layer in report.layers}] for report in history]


def save(value: Any, name: str = "history.json") -> None:
    """Write a result where the test finds it, all or nothing."""
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
    """A Lightning training: two small layers that learn, and one of big × big that is only watched.

    Args:
        callbacks: of the Trainer.
        distribution: whose Trainer.
        steps: optimizer steps, unless ``until`` is given.
        until: a file that ends the training when it is there.
        big: size of the large layer; 0 for none.
        loader_workers: processes of the DataLoader, persistent ones.
        loader_context: how they are started, "fork" or "spawn".
        tensorboard: log to a TensorBoardLogger.
        in_step: called in each training step with its number.
        trainer_options: further arguments of the Trainer.
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
        torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL = LOADER_CHECK
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
