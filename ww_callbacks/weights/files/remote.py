"""Files and folders at URLs. They are read through fsspec, in ranges, so that no file is downloaded as a whole.

The package ``universal_pathlib`` has such paths too. Here, a path asks the file system as little as possible (each
question is a request), notices that a file was replaced, and keeps the secrets of its URL out of messages.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from ww_callbacks.weights.files.errors import WeightsFileError, first_line
from ww_callbacks.weights.files.urls import is_chain, is_url, secrets_in, without_secrets

BLOCK = 2**16
"""Bytes of the smallest request. Small reads, as of headers, are served from blocks that are kept."""
MAX_BLOCKS = 512
"""Most blocks that are kept for a model."""
MAX_REQUEST = 2**24
"""Bytes of the largest request."""

_DOWNLOAD = "download the file and pass its path"
_MARKS = ("ETag", "etag", "blob_id", "sha", "mtime", "LastModified", "Last-Modified", "last_modified", "created")
"""Keys under which file systems tell the version of a file, the most reliable first."""
_TIMES = ("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "created")
"""Keys under which file systems tell when a file was written."""
_FILE, _FOLDER, _NOTHING = "file", "directory", ""


class Stat(NamedTuple):
    """The parts of :class:`os.stat_result` that are known of a file at a URL."""

    st_mode: int
    st_size: int


class Mark(NamedTuple):
    """What tells one version of a file at a URL from another, as far as its file system says.

    Attributes:
        size: in bytes; -1 if it is not known.
        changed: when it was written, in nanoseconds since the epoch; 0 if it is not known.
        tag: of the version; empty if there is none.
    """

    size: int
    changed: int
    tag: str


@dataclass(slots=True)
class _Source:
    """What all paths of a model share.

    Attributes:
        url: the URL, with its secrets.
        root: its path in the file system.
        files: a file system of fsspec.
        secrets: what may not be shown.
        blocks: bytes that were read, by path and number of the block.
    """

    url: str
    root: str
    files: Any
    secrets: list[str]
    blocks: dict[tuple[RemotePath, int], bytes] = field(default_factory=dict)


class RemotePath:
    """A file or a folder at a URL, with the methods of :class:`pathlib.Path` that readers use.

    What the file system says of a file is asked for once. If it says something else after a read, the file was
    replaced, and the read fails.

    Args:
        source: where it is.
        path: in the file system.
        shown: the URL without secrets.
        parent: the folder, if it is known.
        kind: ``"file"``, ``"directory"`` or ``""`` for nothing; None if it is not known yet.
    """

    def __init__(
        self, source: _Source, path: str, shown: str, parent: RemotePath | None = None, kind: str | None = None
    ) -> None:
        self._source, self._path, self._shown = source, path, shown
        self._parent, self._known_kind = parent, kind
        self._inside: dict[str, str] | None = None

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"RemotePath({self._shown!r})"

    def __truediv__(self, name: str) -> RemotePath:
        """A file or a folder in this folder.

        Raises:
            WeightsFileError: the name leads out of the folder.
        """
        parts = PurePosixPath(name).parts
        if not parts or {"/", "//", ".."} & set(parts) or "\\" in name or "\0" in name:
            raise WeightsFileError(self, f"{name[:80]!r} leads out of the folder, refused")
        place = self
        for part in parts:
            place = place._child(part)
        return place

    @property
    def name(self) -> str:
        """The last part of the path."""
        name = self._plain_path.rpartition("/")[2]
        return unquote(name) if self._is_http else name

    @property
    def url(self) -> str:
        """The URL with its secrets, for other processes; not to be shown."""
        return self._source.url + self._path.rstrip("/").removeprefix(self._source.root)

    @property
    def parent(self) -> RemotePath:
        """The folder."""
        if self._parent is None:
            path, shown = (text.rpartition("/")[0] for text in (self._plain_path, self._shown))
            self._parent = RemotePath(self._source, path, shown)
        return self._parent

    def absolute(self) -> RemotePath:
        """The path itself, since URLs are absolute."""
        return self

    def stat(self) -> Stat:
        """Kind and size.

        Raises:
            FileNotFoundError: there is nothing.
            WeightsFileError: it cannot be reached, or its size is not known.
        """
        if self._first is None:
            raise FileNotFoundError(str(self))
        if self._first["type"] == _FOLDER:
            return Stat(stat.S_IFDIR, 0)
        if not isinstance(self._first.get("size"), int):
            raise WeightsFileError(self, f"its server does not tell its size; {_DOWNLOAD}")
        return Stat(stat.S_IFREG, self._first["size"])

    def exists(self) -> bool:
        """Whether there is a file or a folder."""
        return self._kind != _NOTHING

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self._kind == _FOLDER

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._kind == _FILE

    def iterdir(self) -> Iterator[RemotePath]:
        """What the folder holds, asked for once."""
        if self._inside is None:
            self._inside = {name: _kind_of(entry) for name, entry in self._listed().items()}
        return iter([self._child(name) for name in self._inside])

    def entries(self) -> list[tuple[str, bool]]:
        """What the folder holds now: names, and whether each is a folder.

        Raises:
            WeightsFileError: there is no folder, or it cannot be reached.
        """
        return [(name, _kind_of(entry) == _FOLDER) for name, entry in self._listed_now().items()]

    def marks(self) -> dict[str, Mark]:
        """The files that there are now: path within the folder, empty for a file, and version.

        Raises:
            FileNotFoundError: there is nothing.
            WeightsFileError: it cannot be reached.
        """
        entry = self._ask()
        if entry is None:
            raise FileNotFoundError(str(self))
        return {"": _mark(entry)} if _kind_of(entry) == _FILE else self._marks_inside()

    def _marks_inside(self) -> dict[str, Mark]:
        marks: dict[str, Mark] = {}
        for name, entry in self._listed_now().items():
            if _kind_of(entry) == _FOLDER:
                marks |= {f"{name}/{inner}": mark for inner, mark in self._child(name)._marks_inside().items()}
            else:
                marks[name] = _mark(entry)
        return marks

    def _listed_now(self) -> dict[str, dict[str, Any]]:
        with self._asking():
            self._source.files.invalidate_cache(self._path)
        return self._listed()

    def _listed(self) -> dict[str, dict[str, Any]]:
        """What the file system says of all that the folder holds, by name."""
        with self._asking():
            entries = self._source.files.ls(self._path, detail=True)
        found = {entry["name"].rstrip("/"): entry for entry in entries}
        found.pop(self._path.rstrip("/"), None)  # some list an empty file for the folder itself
        names = ((path.rpartition("/")[2], entry) for path, entry in found.items())
        return {name: entry for name, entry in names if name not in ("", ".", "..")}

    def read_text(self, encoding: str) -> str:
        """The whole file."""
        with self.open("rb") as file:
            return file.read().decode(encoding)

    @contextlib.contextmanager
    def open(self, mode: str) -> Iterator[io.BufferedReader[Any]]:
        """Open a file for reading in ranges.

        Args:
            mode: "rb".

        Raises:
            FileNotFoundError: there is no file.
            WeightsFileError: it cannot be reached or read in ranges, or it was replaced since it was opened first.
        """
        ranges = _Ranges(self, self.stat().st_size)
        with io.BufferedReader(ranges, BLOCK) as file:
            yield file
        if ranges.asked and _version(self._ask()) != _version(self._first):
            raise WeightsFileError(self, "was replaced while it was read; analyse it again")

    @property
    def _is_http(self) -> bool:
        return self._path.startswith(("http://", "https://"))

    @property
    def _plain_path(self) -> str:
        return (self._path.partition("?")[0] if self._is_http else self._path).rstrip("/")

    @property
    def _kind(self) -> str:
        if self._known_kind is None:
            self._known_kind = _NOTHING if self._first is None else _kind_of(self._first)
        return self._known_kind

    @cached_property
    def _first(self) -> dict[str, Any] | None:
        return self._ask()

    def _ask(self) -> dict[str, Any] | None:
        """What the file system says of it now; None if there is nothing."""
        with self._asking():
            try:
                self._source.files.invalidate_cache(self._path)
                found: dict[str, Any] = self._source.files.info(self._path)
            except NotADirectoryError:
                return None
            except FileNotFoundError as error:
                if _is_missing(error):
                    return None
                raise error.__cause__ or error from None
        return found

    def _asking(self) -> contextlib.AbstractContextManager[None]:
        return _asking(self._shown, self._source.secrets)

    def _child(self, name: str) -> RemotePath:
        path = f"{self._plain_path}/{quote(name, safe='') if self._is_http else name}"
        kind = None if self._inside is None else self._inside.get(name, _NOTHING)
        return RemotePath(self._source, path, f"{self._shown}/{name}", self, kind)


Location = Path | RemotePath
"""Where a file or a folder is: on this machine or at a URL."""


def located(path: str | os.PathLike[str] | RemotePath) -> Location:
    """The file or folder at a path or URL. ``file://`` is a path on this machine.

    Raises:
        WeightsFileError: a URL that fsspec does not know, or fsspec is not installed.
    """
    if isinstance(path, RemotePath):
        return path
    if isinstance(path, str) and is_url(path):
        if not path.startswith("file://"):
            return _remote(path)
        path = unquote(path.removeprefix("file://"))
    return Path(path)


def _remote(url: str) -> RemotePath:
    shown, secrets = without_secrets(url).rstrip("/"), secrets_in(url)
    if is_chain(url):
        raise WeightsFileError(shown, f"chained URLs are not read; {_DOWNLOAD}")
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError as error:
        raise WeightsFileError(shown, "reading it needs fsspec: pip install 'ww_callbacks[urls]'") from error
    with _asking(shown, secrets):
        files, path = url_to_fs(url)
    return RemotePath(_Source(url.rstrip("/"), path.rstrip("/"), files, secrets), path, shown)


@contextlib.contextmanager
def _asking(shown: str, secrets: list[str]) -> Iterator[None]:
    """Turn any exception of fsspec into a :class:`WeightsFileError` without secrets.

    The exception itself is not shown as the cause, since its text may hold them. fsspec raises a ValueError for what it
    cannot do: unknown protocols, and servers that do not send parts of files.
    """
    try:
        yield
    except WeightsFileError:
        raise
    except FileNotFoundError:
        raise WeightsFileError(shown, "no such file or directory") from None
    except Exception as error:
        text = without_secrets(str(error))
        for secret in secrets:
            text = text.replace(secret, "***")
        cause = first_line(text) or type(error).__name__
        advice = f"; {_DOWNLOAD}" if isinstance(error, ValueError) else ""
        raise WeightsFileError(shown, f"cannot be read: {cause}{advice}") from None


def _is_missing(error: FileNotFoundError) -> bool:
    """Whether there is no file. Over HTTP, fsspec says the same of one that cannot be reached; the cause tells."""
    cause = error.__cause__
    status = getattr(cause, "status", None) or getattr(getattr(cause, "response", None), "status_code", None)
    if status is not None:
        return status in (404, 410)
    return isinstance(cause, FileNotFoundError) or not isinstance(cause, OSError)


def _kind_of(entry: dict[str, Any]) -> str:
    return _FOLDER if entry["type"] == _FOLDER else _FILE


def _version(entry: dict[str, Any] | None) -> tuple[Any, str]:
    """What changes if a file is replaced, as far as the file system tells: its size, and a tag or a time."""
    entry = entry or {}
    return entry.get("size"), next((str(entry[key]) for key in _MARKS if entry.get(key)), "")


def _mark(entry: dict[str, Any]) -> Mark:
    size, tag = _version(entry)
    return Mark(size if isinstance(size, int) else -1, _changed(entry), tag)


def _changed(entry: dict[str, Any]) -> int:
    """When a file was written, in nanoseconds since the epoch; 0 if the file system does not tell."""
    for key in _TIMES:
        value = entry.get(key)
        with contextlib.suppress(ValueError):
            if isinstance(value, str):
                value = _time_in(value)
            if isinstance(value, datetime):
                return round(value.timestamp() * 1e9)
            if isinstance(value, (int, float)):
                return round(value * 1e9)
    return 0


def _time_in(text: str) -> datetime:
    """The time in a text, in the form of ISO 8601 or of HTTP."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return parsedate_to_datetime(text)


class _Ranges(io.RawIOBase):
    """A file at a URL as a file object. Small reads use blocks, large ones ask for their range.

    Attributes:
        asked: whether the file system was asked for bytes.
    """

    def __init__(self, path: RemotePath, size: int) -> None:
        self.asked = False
        self._path, self._size, self._position = path, size, 0
        self._open_files = contextlib.ExitStack()
        self._file: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        if wanted > BLOCK:
            data = self._ask(self._position, min(wanted, MAX_REQUEST))
        else:
            number, start = divmod(self._position, BLOCK)
            data = self._block(number)[start : start + wanted] if wanted else b""
        memoryview(buffer)[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            with self._path._asking():
                self._open_files.close()
        super().close()

    def _block(self, number: int) -> bytes:
        blocks, key = self._path._source.blocks, (self._path, number)
        if key not in blocks:
            data = self._ask(number * BLOCK, min(BLOCK, self._size - number * BLOCK))
            while len(blocks) >= MAX_BLOCKS:
                del blocks[next(iter(blocks))]
            blocks[key] = data
        return blocks[key]

    def _ask(self, start: int, size: int) -> bytes:
        self.asked = True
        with self._path._asking():
            if self._file is None:
                file = self._path._source.files.open(self._path._path, "rb", cache_type="none")
                self._file = self._open_files.enter_context(file)
            self._file.seek(start)
            data: bytes = self._file.read(size)
        if len(data) != size:
            raise WeightsFileError(self._path, f"truncated: {len(data)} bytes at byte {start} instead of {size}")
        return data
