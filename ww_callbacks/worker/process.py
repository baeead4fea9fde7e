"""The trainer's side of the worker process, as a ``concurrent.futures.Executor``."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import site
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy
from numpy.typing import NDArray

import ww_callbacks
from ww_callbacks import forking
from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer
from ww_callbacks.forking import above_standard_streams
from ww_callbacks.report import LayerReport
from ww_callbacks.worker import lifeline
from ww_callbacks.worker.protocol import Message, ProtocolError, decode, encode
from ww_callbacks.worker.serve import write_all

MAX_DEATHS = 3
"""After so many deaths without a result in between the worker is not started again."""

_LAST_BREATH = 1.0
_LONGEST_POLL = 1e6
_FOREIGN_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)
_FOREIGN_PREFIXES = ("MASTER_", "PL_", "TORCHELASTIC_", "WANDB_")
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class SharedMemory(Protocol):
    """Memory that the worker maps: where the weights of a task lie."""

    fd: int

    def offset_of(self, array: NDArray[np.generic]) -> int:
        """Where ``array`` lies, in bytes from the start."""


class WorkerError(Exception):
    """The worker process ended, did not answer in time, or answered nonsense."""


@dataclass(slots=True)
class _Job:
    future: Future[LayerReport]
    spec: LayerSpec
    message: Message
    step: int | None


class WorkerProcess(Executor):
    """Runs ``analyze_layer`` in one process of its own, one task after the other.

    The process is started with the first task, with one BLAS thread and low priority, and ends with this process
    however that ends. A task whose worker dies, hangs or cannot be started gets a "failed" report with the
    reason; the worker is started again for the next one, and not any more after ``MAX_DEATHS`` in a row.

    Args:
        memory: where the weights lie.
        layer_timeout: seconds that one task may take.
        lifeline_method: how the worker notices the end of this process.
    """

    def __init__(
        self,
        memory: SharedMemory,
        *,
        layer_timeout: float = 600.0,
        lifeline_method: lifeline.Method | None = None,
    ) -> None:
        self._memory = memory
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._process = _Process(memory.fd, layer_timeout, lifeline_method or lifeline.default_method())
        self._thread = threading.Thread(target=_pump, args=(self._jobs, self._process), name="ww-worker", daemon=True)
        self._stop = weakref.finalize(self, _stop, self._jobs, self._process, os.getpid())

    def submit(  # type: ignore[override]
        self,
        fn: Callable[..., LayerReport],
        spec: LayerSpec,
        stored: NDArray[np.generic],
        settings: Settings,
        step: int | None = None,
    ) -> Future[LayerReport]:
        """Queue one layer; returns at once.

        Args:
            fn: ``analyze_layer``; this executor runs nothing else.
            spec: what the weights are.
            stored: the weights, a view of the shared memory; they must not change before the result is in.
            settings: how to analyse.
            step: finished optimizer steps.

        Raises:
            TypeError: ``fn`` is another function.
            ValueError: ``stored`` does not lie in the shared memory.
            RuntimeError: the executor was shut down.
        """
        if fn is not analyze_layer:
            raise TypeError(f"fn: a WorkerProcess runs analyze_layer only, got {fn!r}")
        if not self._stop.alive:
            raise RuntimeError("the worker was shut down")
        if not self._thread.is_alive():
            self._thread.start()
        message = {
            "spec": asdict(spec),
            "offset": self._memory.offset_of(stored),
            "settings": settings.to_dict(),
            "step": step,
        }
        job = _Job(Future(), spec, message, step)
        self._jobs.put(job)
        return job.future

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None where none runs."""
        return self._process.pid

    @property
    def broken(self) -> str:
        """Why the worker is not started any more; empty while it can be."""
        return self._process.broken

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the worker process at once; what is not finished is cancelled.

        Args:
            wait: whether to wait until it is gone (some milliseconds).
            cancel_futures: as for any executor; unfinished tasks are always cancelled here.
        """
        self._stop()
        if wait and self._thread.is_alive():
            self._thread.join(timeout=5.0)


def _stop(jobs: queue.SimpleQueue[_Job | None], process: _Process, owner: int) -> None:
    if os.getpid() == owner:
        process.close()
        jobs.put(None)


def _pump(jobs: queue.SimpleQueue[_Job | None], process: _Process) -> None:
    """Runs in a thread: hands one task after the other to the worker and fulfils its future."""
    while (job := jobs.get()) is not None:
        if process.closing.is_set():
            job.future.cancel()
        elif job.future.set_running_or_notify_cancel():
            _run(job, process)


def _run(job: _Job, process: _Process) -> None:
    try:
        answer = process.ask(job.message)
        if "report" in answer:
            job.future.set_result(LayerReport.from_dict(answer["report"]))
            return
        reason = str(answer.get("error", "the worker gave no reason"))
    except (WorkerError, ValueError) as error:
        reason = str(error)
    except Exception as error:  # this thread serves all tasks: it must not end with one of them
        reason = f"{type(error).__name__}: {error}"
    job.future.set_result(failed_report(job.spec, job.step, reason))


def failed_report(spec: LayerSpec, step: int | None, reason: str) -> LayerReport:
    """The entry of a layer whose analysis did not come back."""
    return LayerReport(name=spec.name, kind=spec.kind, step=step, status="failed", reason=reason)


class _Process:
    """The process itself with its pipes. ``ask`` is called from one thread, ``close`` from any."""

    def __init__(self, memory_fd: int, layer_timeout: float, method: lifeline.Method) -> None:
        self._memory_fd, self._layer_timeout, self._method = memory_fd, layer_timeout, method
        self._popen: subprocess.Popen[bytes] | None = None
        self._tasks = self._answers = self._lifeline = -1
        self._log: Any = None
        self._lock = threading.RLock()  # a garbage collection in _start may close
        self._asked = self._deaths = 0
        self.closing = threading.Event()
        self.broken = ""

    @property
    def pid(self) -> int | None:
        popen = self._popen
        return popen.pid if popen is not None else None

    def ask(self, message: Message) -> Message:
        """Send one task and wait for its answer."""
        if self.broken:
            raise WorkerError(self.broken)
        try:
            if self._popen is not None and self._popen.poll() is not None:
                self._kill()  # ended between two tasks: no fault of the next one
            if self._popen is None:
                self._start()
            return self._talk(message)
        except (OSError, EOFError, ProtocolError, TimeoutError) as error:
            reason = self._died(error)
            raise WorkerError(reason) from error

    def close(self) -> None:
        """Kill the process and free its pipes."""
        self.closing.set()
        with self._lock:
            self._kill()
            self._tail_of_log()

    def close_in_child(self) -> None:
        """In a forked child: let go of the pipes, leave the process to its owner."""
        self.closing.set()
        self._close_pipes()
        if self._popen is not None:
            self._popen.returncode = 0  # not our child: nothing to wait for
        self._popen = None

    def _start(self) -> None:
        with self._lock, forking.opening:
            if self.closing.is_set():
                raise EOFError
            tasks, self._tasks = _pipe()
            self._answers, answers = _pipe()
            lifeline_end, self._lifeline = _pipe()
            forking.close_in_children(self)
            theirs = (self._memory_fd, tasks, answers, lifeline_end)
            try:
                self._popen = self._popen_with(*theirs)
            finally:
                for fd in theirs[1:]:
                    os.close(fd)
            if self.closing.is_set():
                self._kill()
                raise EOFError
        hello = decode(self._reader())
        if "hello" not in hello:
            raise ProtocolError(f"expected a hello, got {hello}")

    def _popen_with(self, memory: int, tasks: int, answers: int, lifeline_end: int) -> subprocess.Popen[bytes]:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        numbers = {"memory": memory, "tasks": tasks, "answers": answers, "lifeline": lifeline_end}
        options = [part for name, fd in numbers.items() for part in (f"--{name}", str(fd))]
        return subprocess.Popen(
            [sys.executable, "-m", "ww_callbacks.worker", *options, "--lifeline-method", self._method],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=worker_environment(os.environ),
            cwd=_package_parent(),
            pass_fds=tuple(numbers.values()),
        )

    def _talk(self, message: Message) -> Message:
        self._asked += 1
        write_all(self._tasks, encode(message | {"task": self._asked}))
        answer = decode(self._reader())
        if answer.get("task") != self._asked:
            raise ProtocolError(f"expected the answer to task {self._asked}, got that to {answer.get('task')}")
        self._deaths = 0
        return answer

    def _reader(self) -> Callable[[int], bytes]:
        """Reads from the worker until the time for one layer is over."""
        fd, timeout = self._answers, self._layer_timeout
        deadline = time.monotonic() + timeout
        ready = select.poll()
        ready.register(fd, select.POLLIN)

        def read_exactly(count: int) -> bytes:
            parts = bytearray()
            while len(parts) < count:
                if not ready.poll(1000 * min(max(deadline - time.monotonic(), 0), _LONGEST_POLL)):
                    raise TimeoutError(f"no answer within {timeout:g} s")
                part = os.read(fd, count - len(parts))
                if not part:
                    raise EOFError
                parts += part
            return bytes(parts)

        return read_exactly

    def _died(self, error: Exception) -> str:
        ended = isinstance(error, (EOFError, BrokenPipeError))
        if ended and self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_LAST_BREATH)  # for its status
        with self._lock:
            if self.closing.is_set():
                return "the monitor was closed"
            status = self._kill()
        self._deaths += 1
        reason = _describe(error, status, self._tail_of_log())
        if self._deaths >= MAX_DEATHS:
            self.broken = f"the worker process ended {self._deaths} times in a row, the last time: {reason}"
        return reason

    def _kill(self) -> int | None:
        popen, self._popen = self._popen, None
        self._close_pipes()
        if popen is None:
            return None
        status = popen.poll()
        popen.kill()
        popen.wait()
        return status

    def _close_pipes(self) -> None:
        for fd in (self._tasks, self._answers, self._lifeline):
            if fd >= 0:
                os.close(fd)
        self._tasks = self._answers = self._lifeline = -1

    def _tail_of_log(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self._log.close()
        self._log = None
        return lines[-1] if lines else ""


def worker_environment(environment: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """The worker's environment: one BLAS thread, no device, no rank, and this package in reach."""
    kept = {
        key: value
        for key, value in environment.items()
        if key not in _FOREIGN_VARIABLES and not key.startswith(_FOREIGN_PREFIXES)
    }
    homes = [str(Path(module.__file__).parents[1]) for module in (ww_callbacks, np, scipy) if module.__file__]
    # What is installed in the usual place is found there; on PYTHONPATH it would come before the standard library.
    usual = {*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("purelib")}
    path = [*filter(None, [kept.get("PYTHONPATH")]), *(home for home in dict.fromkeys(homes) if home not in usual)]
    kept.update(dict.fromkeys(_ONE_THREAD, "1"))
    kept.update(CUDA_VISIBLE_DEVICES="", PYTHONPATH=os.pathsep.join(path), PYTHONSAFEPATH="1")
    return kept


def _package_parent() -> str:
    return str(Path(ww_callbacks.__file__).resolve().parents[1])


def _pipe() -> tuple[int, int]:
    """Reading and writing end, neither of them where a process has its standard streams."""
    reading, writing = os.pipe()
    return above_standard_streams(reading), above_standard_streams(writing)


def _describe(error: Exception, status: int | None, log: str) -> str:
    if isinstance(error, TimeoutError):
        text = str(error)
    elif isinstance(error, ProtocolError):
        text = f"the worker's answer was not understood: {error}"
    elif isinstance(error, (EOFError, BrokenPipeError)):
        text = "the worker process ended" + (f" with status {status}" if status is not None else "")
    else:
        text = f"the worker process could not be started: {error}"
    return f"{text}; its last words: {log}" if log else text
