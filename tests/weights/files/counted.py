"""A file system of fsspec that counts what it sends, and can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem


class CountedFile(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.range(self.path, start, end)


class Counted(AbstractFileSystem):
    """Files in memory, by path.

    Attributes:
        files: path → content.
        tags: path → number that changes with the content, if the file system tells it.
        sent: bytes sent so far.
        requests: paths of which a range was sent.
        error: raised instead of sending a range.
    """

    protocol = "counted"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, int] = {}
        self.sent = 0
        self.requests: list[str] = []
        self.error: Exception | None = None

    def range(self, path: str, start: int, end: int) -> bytes:
        if self.error is not None:
            raise self.error
        self.requests.append(path)
        data = self.files[path][start:end]
        self.sent += len(data)
        return data

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path in self.files:
            tag = {"ETag": str(self.tags[path])} if path in self.tags else {}
            return {"name": path, "size": len(self.files[path]), "type": "file", **tag}
        if any(name.startswith(f"{path}/") for name in self.files):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        start = f"{self._strip_protocol(path)}/"
        names = {start + name[len(start) :].split("/")[0] for name in self.files if name.startswith(start)}
        return [self.info(name) if detail else name for name in sorted(names)]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> CountedFile:
        return CountedFile(self, path, mode, **options)

    def add(self, path: Path, below: str = "bucket") -> str:
        """Copy a file or a folder, and return its URL."""
        for file in [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file()):
            self.files[f"{below}/{file.relative_to(path.parent)}"] = file.read_bytes()
        return f"counted://{below}/{path.name}"


def counted() -> Counted:
    """A new file system, behind all URLs that begin with ``counted://``."""
    fsspec.register_implementation("counted", Counted, clobber=True)
    Counted.clear_instance_cache()
    files: Counted = fsspec.filesystem("counted")
    return files
