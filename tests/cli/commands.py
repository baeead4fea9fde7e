"""Run the command in a separate process, in a pipe or in a terminal."""

import errno
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ww_callbacks.cli import main

COMMAND = [sys.executable, "-m", "ww_callbacks"]
for _name in ("NO_COLOR", "FORCE_COLOR", "CI"):  # they decide about colours
    os.environ.pop(_name, None)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def model(seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "enc.fc1": scale * rng.standard_normal((120, 60)),
        "enc.fc2": scale * rng.standard_t(3, (100, 60)),
        "head": rng.standard_normal((60, 10)),
    }


def save_model(folder: Path, name: str = "model.npz", **arguments: float) -> Path:
    np.savez(folder / name, **model(**arguments))
    return folder / name


def run(*words: object, **arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | ONE_THREAD,
        **arguments,
    )


def run_here(*words: object) -> int:
    """Run the command in this process."""
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)


class Terminal:
    """Run the command in a pseudo-terminal."""

    def __init__(self, *words: object, size: tuple[int, int] = (40, 160), **environment: str) -> None:
        self._master, slave = pty.openpty()
        rows, columns = size
        settings = {"TERM": "xterm-256color", "LINES": str(rows), "COLUMNS": str(columns), **ONE_THREAD}
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, words)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | settings | environment,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def wait_for(self, word: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while word not in self.text:
            assert time.monotonic() < end, f"{word!r} did not appear within {seconds} s; output:\n{self.text}"
            if not self._read(0.2) and self.process.poll() is not None:
                raise AssertionError(f"the command ended before {word!r}; output:\n{self.text}")

    def wait(self, seconds: float = 60) -> int:
        """Wait until the command exits and return its status. ``text`` then contains the whole output."""
        limit = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < limit, self.text
            self._read(0.2)
        while self._read(0.1):
            pass
        return self.process.returncode

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self._master)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError as error:
            if error.errno == errno.EIO:  # the other end is closed
                return False
            raise
        self.text += piece.decode(errors="replace")
        return bool(piece)
