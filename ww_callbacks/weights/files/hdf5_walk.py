"""Walk through an HDF5 file. Needs only h5py, so that a separate process can run it as a script.

The HDF5 library may hang or crash on a damaged file. Therefore, a child process walks through the file first.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Iterator
from typing import Any

import h5py

MAX_DEPTH, MAX_OBJECTS = 64, 1_000_000
LIMIT_SECONDS, LIMIT_SECONDS_ASKED = 60, 600
"""Longest walk through a file, and through one that is sent in ranges."""


class _Asked:
    """A file that another process reads: it gets position and length of each range, and sends the bytes."""

    def seek(self, position: int) -> None:
        self._position = position

    def readinto(self, buffer: memoryview) -> int:
        sys.stdout.buffer.write(b"%d %d\n" % (self._position, len(buffer)))
        sys.stdout.buffer.flush()
        data = sys.stdin.buffer.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Window(io.RawIOBase):
    """A section of a file as a file object."""

    def __init__(self, raw: Any, start: int, size: int) -> None:
        self._raw, self._start, self._size, self._position = raw, start, size, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        self._raw.seek(self._start + self._position)
        count: int = self._raw.readinto(memoryview(buffer)[:wanted])
        self._position += count
        return count


@contextlib.contextmanager
def opened(path: str, start: int, size: int) -> Iterator[h5py.File]:
    """Open an HDF5 file, or one that is embedded in another file.

    Args:
        path: of the file; "" for one that another process reads.
        start: where the HDF5 file begins.
        size: its size in bytes; 0 for the whole file.
    """
    if not path:
        with opened_in(_Asked(), start, size) as file:
            yield file
        return
    if not size:
        with h5py.File(path, "r") as file:
            yield file
        return
    with open(path, "rb") as raw, opened_in(raw, start, size) as file:
        yield file


@contextlib.contextmanager
def opened_in(raw: Any, start: int, size: int) -> Iterator[h5py.File]:
    """Open an HDF5 file that is a section of another file.

    Args:
        raw: the other file, as a file object.
        start: where the HDF5 file begins.
        size: its size in bytes.
    """
    with h5py.File(_Window(raw, start, size), "r") as file:
        yield file


def walk(group: h5py.Group, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Groups and datasets, each once; only hard links are followed.

    Raises:
        ValueError: a link that may lead to another file, or too many groups.
    """
    seen = set() if seen is None else seen
    for key in group:
        name = f"{prefix}/{key}" if prefix else key
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"{name!r} is a link that may lead to another file, refused")
        item = group[key]
        place = h5py.h5o.get_info(item.id).addr
        if place in seen:
            continue
        seen.add(place)
        if name.count("/") > MAX_DEPTH or len(seen) > MAX_OBJECTS:
            raise ValueError(f"more than {MAX_DEPTH} groups inside each other or {MAX_OBJECTS} objects")
        if isinstance(item, (h5py.Group, h5py.Dataset)):
            yield name, item
        if isinstance(item, h5py.Group):
            yield from walk(item, name, seen)


def visit(path: str, start: int, size: int) -> None:
    """Make every library call of a later read, except for reading the numbers."""
    with contextlib.suppress(Exception), opened(path, start, size) as file:
        file.attrs.get("model_config", "")
        for _, item in walk(file):
            with contextlib.suppress(Exception):
                item.attrs.get("name", ""), item.attrs.get("dtype", "")
            with contextlib.suppress(Exception):
                _measure(item)


def _measure(item: Any) -> None:
    if isinstance(item, h5py.Dataset) and not item.is_virtual and not item.external:
        item.id.get_storage_size()
        if item.chunks is not None:
            item.id.get_num_chunks()


if __name__ == "__main__":
    if hasattr(signal, "alarm"):
        signal.alarm(LIMIT_SECONDS if sys.argv[1] else LIMIT_SECONDS_ASKED)  # also ends a hang inside the library
    visit(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
