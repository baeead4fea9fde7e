"""The worker process as its trainer sees it: started with pipes of its own, asked, killed."""

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
from ww_callbacks.worker.deadline import Patience
from ww_callbacks.worker.environment import package_parent, worker_environment
from ww_callbacks.worker.forking import above_standard_streams
from ww_callbacks.worker.protocol import Message, ProtocolError, decode, encode
from ww_callbacks.worker.restarts import Faults
from ww_callbacks.worker.serve import write_all

NICENESS = 19
"""Of the worker: it takes what training leaves."""

START_TIMEOUT = 60.0
"""Seconds that the start of the process may take at least: a short limit for layers is none for an interpreter."""

_LAST_BREATH = 1.0
_LONGEST_POLL = 1e6


class WorkerError(Exception):
    """The worker process ended, did not answer in time, or answered nonsense."""


class Child:
    """One process with its pipes. ``ask`` is called from one thread, ``close`` from any.

    Args:
        memory_fd: descriptor of the memory in which the weights lie; None for a process that draws figures.
        layer_timeout: seconds of CPU time that one task may take; of the clock where the process does not compute.
        method: how the process notices the end of this one.
        faults: where its deaths are counted.
    """

    def __init__(self, memory_fd: int | None, layer_timeout: float, method: lifeline.Method, faults: Faults) -> None:
        self._memory_fd, self._layer_timeout, self._method = memory_fd, layer_timeout, method
        self._faults = faults
        self._popen: subprocess.Popen[bytes] | None = None
        self._tasks = self._answers = self._lifeline = -1
        self._log: Any = None
        self._lock = threading.RLock()  # a garbage collection in _start may close
        self._asked = 0
        self.closing = threading.Event()

    @property
    def pid(self) -> int | None:
        """Process id, None where none runs."""
        popen = self._popen
        return popen.pid if popen is not None else None

    def ask(self, message: Message, name: str) -> Message:
        """Send one task and wait for its answer.

        Args:
            message: the task.
            name: of what it is about, such as a layer; a task in which the worker died twice is left out.

        Raises:
            WorkerError: there is none, for a reason that counts as a death or is one.
        """
        reason = self._faults.left_out(name) or self._faults.broken
        if reason:
            raise WorkerError(reason)
        started = False
        try:
            if self._popen is not None and self._popen.poll() is not None:
                with self._lock:
                    self._kill()  # ended between two tasks: no fault of the next one
                    self._tail_of_log()
            if self._popen is None:
                self.closing.wait(self._faults.delay)
                self._start()
            started = True
            answer = self._talk(message)
        except (OSError, EOFError, ProtocolError, TimeoutError) as error:
            raise WorkerError(self._died(error, name if started else "")) from error
        self._faults.answered(name)
        return answer

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
            theirs = {"tasks": tasks, "answers": answers, "lifeline": lifeline_end}
            shared = {} if self._memory_fd is None else {"memory": self._memory_fd}
            try:
                self._popen = self._popen_with(theirs | shared)
            finally:
                for fd in theirs.values():
                    os.close(fd)
            if self.closing.is_set():
                self._kill()
                raise EOFError
        hello = decode(self._reader(max(self._layer_timeout, START_TIMEOUT)))
        if "hello" not in hello:
            raise ProtocolError(f"expected a hello, got {hello}")

    def _popen_with(self, descriptors: Mapping[str, int]) -> subprocess.Popen[bytes]:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        options = [part for name, fd in descriptors.items() for part in (f"--{name}", str(fd))]
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "ww_callbacks.worker", *options),
                *("--lifeline-method", self._method, "--niceness", str(NICENESS)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=worker_environment(os.environ),
            cwd=package_parent(),
            pass_fds=tuple(descriptors.values()),
        )

    def _talk(self, message: Message) -> Message:
        self._asked += 1
        write_all(self._tasks, encode(message | {"task": self._asked}))
        answer = decode(self._reader(self._layer_timeout))
        if answer.get("task") != self._asked:
            raise ProtocolError(f"expected the answer to task {self._asked}, got that to {answer.get('task')}")
        return answer

    def _reader(self, timeout: float) -> Callable[[int], bytes]:
        """Reads from the worker until the time is over."""
        fd, patience = self._answers, Patience(self.pid or 0, timeout)
        ready = select.poll()
        ready.register(fd, select.POLLIN)

        def read_exactly(count: int) -> bytes:
            parts = bytearray()
            while len(parts) < count:
                while not ready.poll(1000 * min(patience.left, _LONGEST_POLL)):
                    if patience.is_over:
                        raise TimeoutError(f"no answer within {timeout:g} s")
                part = os.read(fd, count - len(parts))
                if not part:
                    raise EOFError
                parts += part
            return bytes(parts)

        return read_exactly

    def _died(self, error: Exception, layer: str) -> str:
        ended = isinstance(error, (EOFError, BrokenPipeError))
        if ended and self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_LAST_BREATH)  # for its status
        with self._lock:
            if self.closing.is_set():
                return "the monitor was closed"
            status = self._kill()
        reason = _describe(error, status, self._tail_of_log())
        self._faults.died(reason, layer)
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
