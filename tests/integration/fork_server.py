"""Start programs in which a framework is already imported.

Importing Lightning or Keras takes longer than most programs run. The fork server imports it once and forks for each
program. The child starts a new session, runs the script as ``__main__`` and exits like a normal interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class ForkServer:
    """The tests' handle of the fork server."""

    def __init__(self, modules: tuple[str, ...], environment: dict[str, str]) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, __file__, *modules],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def ask(self, **request: Any) -> Any:
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(json.dumps(request).encode() + b"\n")
        self.popen.stdin.flush()
        answer = self.popen.stdout.readline()
        assert answer, f"the fork server ended with status {self.popen.wait()}"
        return json.loads(answer)


class ForkedProcess:
    """A program started by a fork server, with the methods of :class:`subprocess.Popen` that the tests use."""

    def __init__(self, server: ForkServer, command: list[str], folder: Path, environment: dict[str, str], log: Path):
        self._server, self._command, self._status = server, command, None
        self.pid = server.ask(command=command, folder=str(folder), environment=environment, log=str(log))

    def poll(self) -> int | None:
        if self._status is None:
            self._status = self._server.ask(wait=self.pid)
        return self._status

    def wait(self, timeout: float = 60.0) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self._command, timeout)
            time.sleep(0.01)
        return status


@contextlib.contextmanager
def fork_server(*modules: str, environment: dict[str, str]) -> Iterator[ForkServer]:
    """Start a fork server that has imported ``modules``. It exits at the end of the ``with`` block."""
    server = ForkServer(modules, environment)
    with server.popen:
        yield server


# --- in the fork server ----------------------------------------------------------------------------------------------


def next_program() -> dict[str, Any] | None:
    """Answer requests. Return the program to run in each child, and None in the server after the last request."""
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            return request
    return None


def set_up_process(program: dict[str, Any]) -> None:
    """Set up this process as a new one: session, standard streams, environment, directory and arguments."""
    os.setsid()
    with open(os.devnull) as nothing, open(program["log"], "wb") as log:
        for target, source in enumerate((nothing, log, log)):
            os.dup2(source.fileno(), target)
    os.environ.clear()
    os.environ.update(program["environment"])
    os.chdir(program["folder"])
    sys.argv = program["command"]
    sys.path[0] = program["folder"]


if __name__ == "__main__":
    import gc
    import importlib

    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.freeze()
    if program := next_program():
        set_up_process(program)
        __file__ = sys.argv[0]
        exec(compile(Path(__file__).read_text(), __file__, "exec"))
