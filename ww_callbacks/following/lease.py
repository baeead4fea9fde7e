"""Claims as files, so that several processes share work through a folder, without a server.

A claim is a file that only one process can create. Its owner renews it; if it is not renewed for a while, another
process creates the next generation of it. Clocks are not compared: a process looks whether the time of a file changes.
"""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

from ww_callbacks.following.owners import has_ended, owner_name

LEASE = 60.0
"""Seconds without renewal after which a claim is taken over."""

_NAME = re.compile(r"(.+)\.(\d+)")


class Claims:
    """The claims in a folder, and those of this process.

    Args:
        folder: for the files; created if it does not exist.
        lease: seconds without renewal after which a claim is taken over.

    Raises:
        OSError: the folder is not writable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mine, theirs = Claims(Path(folder)), Claims(Path(folder))
        ...     first, second = mine.acquire("step-100"), theirs.acquire("step-100")
        ...     mine.release("step-100")
        ...     third = theirs.acquire("step-100")
        ...     theirs.close()
        ...     mine.close()
        >>> first, second, third
        (True, False, True)
    """

    def __init__(self, folder: Path, lease: float = LEASE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._lease = folder, lease
        self._held: dict[str, Path] = {}
        self._seen: dict[Path, tuple[int, float]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="ww_callbacks claims", daemon=True)
        self._thread.start()

    def acquire(self, key: str) -> bool:
        """Claim a key, or keep it; whether this process has it now.

        Args:
            key: what is claimed: letters, digits, ``-`` and ``_``.

        Raises:
            OSError: the folder is not writable.
        """
        if self.holds(key):
            return True
        generation, path = self._latest(key)
        if path is not None and not self._is_stale(path):
            return False
        mine = self._folder / f"{key}.{generation + 1}"
        try:
            with open(mine, "x", encoding="utf-8") as file:
                file.write(owner_name())
        except FileExistsError:
            return False
        if self._latest(key)[0] > generation + 1:  # another process took it over already
            return False
        with self._lock:
            self._held[key] = mine
        if path is not None:
            with suppress(OSError):
                path.unlink()
        return True

    def holds(self, key: str) -> bool:
        """Whether this process still has a key: one that did not renew it in time may have lost it."""
        with self._lock:
            mine = self._held.get(key)
        if mine is None:
            return False
        if self._latest(key)[1] == mine:
            return True
        with self._lock:
            self._held.pop(key, None)
        return False

    def release(self, key: str) -> None:
        """Give a key back."""
        with self._lock:
            mine = self._held.pop(key, None)
        if mine is not None:
            with suppress(OSError):
                mine.unlink()

    def close(self) -> None:
        """Give all keys back and stop renewing."""
        self._closing.set()
        for key in list(self._held):
            self.release(key)
        self._thread.join(5.0)

    def _latest(self, key: str) -> tuple[int, Path | None]:
        """The latest generation of a claim, 0 and None if there is none."""
        latest: tuple[int, Path | None] = (0, None)
        for name in os.listdir(self._folder):
            match = _NAME.fullmatch(name)
            if match and match[1] == key and int(match[2]) > latest[0]:
                latest = int(match[2]), self._folder / name
        return latest

    def _is_stale(self, path: Path) -> bool:
        """Whether the owner of a claim has ended: it did on this machine, or the claim was not renewed for a lease."""
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        now = time.monotonic()
        known = self._seen.get(path)
        if known is None or known[0] != changed:
            known = self._seen[path] = changed, now
        return now - known[1] > self._lease or _owner_has_ended(path)

    def _renew(self) -> None:
        while not self._closing.wait(self._lease / 4):
            with self._lock:
                held = list(self._held.values())
            for path in held:
                with suppress(OSError):
                    os.utime(path)


def _owner_has_ended(path: Path) -> bool:
    try:
        return has_ended(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
