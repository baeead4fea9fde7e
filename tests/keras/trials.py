"""Tries HDF5 files in one child process for many files, where the package starts an interpreter for each."""

from __future__ import annotations

import subprocess
import sys

from ww_callbacks.weights.files import hdf5_walk

LOOP = """
import signal, sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("walk", sys.argv[1])
walk = module_from_spec(spec)
spec.loader.exec_module(walk)
for line in sys.stdin:
    start, size, path = line.rstrip("\\n").split(" ", 2)
    signal.alarm(10)
    walk.visit(path, int(start), int(size))
    signal.alarm(0)
    print("survived", flush=True)
"""


class Trials:
    """Stands for `try_alone`: the same walk, also in a process that the HDF5 library may crash."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def __call__(self, path: str, start: int, size: int) -> int:
        child = self._child = self._child or self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{start} {size} {path}\n")
        child.stdin.flush()
        if child.stdout.readline():
            return 0
        self._child = None
        return child.wait(10)

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LOOP, hdf5_walk.__file__]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        if self._child is not None:
            self._child.communicate(timeout=10)
