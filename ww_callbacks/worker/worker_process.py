"""A worker process, as seen from the trainer: starting it, sending tasks, killing it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ww_callbacks.worker import forking, lifeline
from ww_callbacks.worker.deadline import Deadline
from ww_callbacks.worker.environment import package_parent, worker_environment
from ww_callbacks.worker.forking import above_standard_streams
from ww_callbacks.worker.protocol import Message, ProtocolError, decode, encode, recv_exact, send_all
from ww_callbacks.worker.restarts import RestartPolicy

NICENESS = 19
"""Nice value of a worker at low priority: it only uses CPU time that training does not need."""

MIN_START_TIMEOUT = 60.0
"""Minimum seconds allowed for the start of the process, even if the timeout of a task is shorter."""

_EXIT_TIMEOUT = 1.0
_KILL_TIMEOUT = 10.0
_SHORT = 0.05
"""Seconds in which small layers are done; only later answers need a deadline, which costs as much as reading one."""
_MAX_POLL = 1e6


class WorkerError(Exception):
    """The worker process ended, did not answer in time, or sent an invalid answer."""


class WorkerProcess:
    """One process with its pipes. ``ask`` must be called from one thread only, ``close`` from any thread.

    Args:
        memory_fd: descriptor of the memory that holds the weights; None for a process that draws figures.
        timeout: limit per task: seconds of CPU time, or wall-clock seconds if the process is idle.
        method: how the process notices that this process has exited.
        restarts: counts the crashes.
        low_priority: whether the process gets a lower priority than this one.
    """

    def __init__(
        self,
        memory_fd: int | None,
        timeout: float,
        method: lifeline.Method,
        restarts: RestartPolicy,
        *,
        low_priority: bool = True,
    ) -> None:
        self._memory_fd, self._timeout, self._method = memory_fd, timeout, method
        self._restarts, self._low_priority = restarts, low_priority
        self._popen: subprocess.Popen[bytes] | None = None
        self._tasks = self._answers = self._lifeline = -1
        self._log: Any = None
        self._lock = threading.RLock()  # reentrant: garbage collection in _start may call close
        self._num_tasks = 0
        self.closing = threading.Event()

    @property
    def pid(self) -> int | None:
        """Process id; None if the process is not running."""
        popen = self._popen
        return popen.pid if popen is not None else None

    def ask(self, message: Message, name: str) -> Message:
        """Send one task and wait for its answer.

        Args:
            message: the task.
            name: name of the task, such as the layer. A task on which the worker crashed twice is skipped.

        Raises:
            WorkerError: there is no answer: the task is skipped, or the worker crashed, hung or could not be started.
        """
        reason = self._restarts.skip_reason(name)
        if reason:
            raise WorkerError(reason)
        self.start()
        try:
            answer = self._exchange(message)
        except (OSError, EOFError, ProtocolError, TimeoutError) as error:
            raise WorkerError(self._handle_crash(error, name)) from error
        self._restarts.record_result(name)
        return answer

    def start(self) -> None:
        """Start the process if it is not running. Whatever keeps it from starting counts as a crash.

        Raises:
            WorkerError: it did not start.
        """
        if self._restarts.broken:
            raise WorkerError(self._restarts.broken)
        try:
            if self._popen is not None and self._popen.poll() is not None:
                with self._lock:
                    self._kill()  # it ended between two tasks, so the next task is not to blame
                    self._pop_last_log_line()
            if self._popen is None:
                self.closing.wait(self._restarts.delay)
                self._start()
        except Exception as error:
            raise WorkerError(self._handle_crash(error, "")) from error

    def close(self) -> None:
        """Kill the process and close its pipes."""
        self.closing.set()
        with self._lock:
            self._kill()
            self._pop_last_log_line()

    def close_in_child(self) -> None:
        """Close the pipes in a forked child; the process keeps running."""
        self.closing.set()
        self._close_pipes()
        if self._popen is not None:
            self._popen.returncode = 0  # the process is not a child of the forked one, which cannot wait for it
        self._popen = None

    def _start(self) -> None:
        with self._lock, forking.fork_lock:
            if self.closing.is_set():
                raise EOFError
            forking.close_in_children(self)
            shared = {} if self._memory_fd is None else {"memory": self._memory_fd}
            with contextlib.ExitStack() as worker_ends:
                tasks, self._tasks = _pipe()
                worker_ends.callback(os.close, tasks)
                self._answers, answers = _pipe()
                worker_ends.callback(os.close, answers)
                lifeline_end, self._lifeline = _pipe()
                worker_ends.callback(os.close, lifeline_end)
                self._popen = self._spawn({"tasks": tasks, "answers": answers, "lifeline": lifeline_end} | shared)
            if self.closing.is_set():
                self._kill()
                raise EOFError
        hello = decode(self._receiver(max(self._timeout, MIN_START_TIMEOUT)))
        if "hello" not in hello:
            raise ProtocolError(f"expected a hello, got {hello}")

    def _spawn(self, descriptors: Mapping[str, int]) -> subprocess.Popen[bytes]:
        if not sys.executable:
            raise FileNotFoundError(
                f"sys.executable is {sys.executable!r}; set it to the path of the Python interpreter, or pass "
                'executor="thread"'
            )
        self._log = _output_file()
        options = [part for name, fd in descriptors.items() for part in (f"--{name}", str(fd))]
        niceness = NICENESS if self._low_priority else 0
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "ww_callbacks.worker", *options),
                *("--lifeline-method", self._method, "--niceness", str(niceness)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=worker_environment(os.environ),
            cwd=package_parent(),
            pass_fds=tuple(descriptors.values()),
        )

    def _exchange(self, message: Message) -> Message:
        self._num_tasks += 1
        send_all(self._tasks, encode(message | {"task": self._num_tasks}))
        answer = decode(self._receiver(self._timeout))
        if answer.get("task") != self._num_tasks:
            raise ProtocolError(f"expected the answer to task {self._num_tasks}, got task {answer.get('task')}")
        return answer

    def _receiver(self, timeout: float) -> Callable[[int], bytes]:
        """A function that receives bytes from the worker, and raises TimeoutError at the deadline."""
        fd = self._answers
        ready = select.poll()
        ready.register(fd, select.POLLIN)

        def wait() -> None:
            if ready.poll(1000 * min(_SHORT, timeout)):
                return
            deadline = Deadline(self.pid or 0, timeout)
            while not ready.poll(1000 * min(deadline.remaining, _MAX_POLL)):
                if deadline.expired():
                    raise TimeoutError(f"no answer within {timeout:g} s")

        return lambda count: recv_exact(fd, count, wait)

    def _handle_crash(self, error: Exception, name: str) -> str:
        """Kill the process, record the crash and return its description."""
        ended = isinstance(error, (EOFError, BrokenPipeError))
        if ended and self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_EXIT_TIMEOUT)  # to get the exit status
        with self._lock:
            if self.closing.is_set():
                return "the monitor was closed"
            status = self._kill()
        reason = _describe(error, status, self._pop_last_log_line())
        self._restarts.record_crash(reason, name)
        return reason

    def _kill(self) -> int | None:
        """Kill the process and close its pipes; the exit status if it had ended before."""
        popen, self._popen = self._popen, None
        status = None
        if popen is not None:
            status = popen.poll()
            popen.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(_KILL_TIMEOUT)  # it does not end while it waits for a disk that does not answer
        self._close_pipes()  # last: a thread that waits at them wakes up as the process ends
        return status

    def _close_pipes(self) -> None:
        # Forgotten before they are closed: a signal handler that calls this in between must not close them again.
        descriptors = self._tasks, self._answers, self._lifeline
        self._tasks = self._answers = self._lifeline = -1
        for fd in descriptors:
            if fd >= 0:
                os.close(fd)

    def _pop_last_log_line(self) -> str:
        """The last line of the worker's output. Closes the log."""
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self._log.close()
        self._log = None
        return lines[-1] if lines else ""


def _pipe() -> tuple[int, int]:
    """Reading and writing end of a new pipe. Neither has the number of a standard stream."""
    reading, writing = os.pipe()
    return above_standard_streams(reading), above_standard_streams(writing)


def _output_file() -> Any:
    """An unnamed file for the output of the process; in memory if no folder for temporary files can be written."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        if not hasattr(os, "memfd_create"):
            raise
        return os.fdopen(os.memfd_create("ww_output"), "w+b")


def _describe(error: Exception, status: int | None, last_line: str) -> str:
    if isinstance(error, TimeoutError):
        text = str(error)
    elif isinstance(error, ProtocolError):
        text = f"invalid answer from the worker: {error}"
    elif isinstance(error, (EOFError, BrokenPipeError)):
        text = "the worker process ended" + (f" with status {status}" if status is not None else "")
    else:
        text = f"the worker process could not be started: {type(error).__name__}: {error}"
    return f"{text}; last line of its output: {last_line}" if last_line else text
