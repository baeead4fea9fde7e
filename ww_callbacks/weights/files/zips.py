"""Zip archives; their directory is checked before anything is read."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from typing import IO

from ww_callbacks.weights.files.errors import WeightsFileError, check_inflation, reading
from ww_callbacks.weights.files.remote import Location


def is_zip(path: Location) -> bool:
    """Whether a file is a zip archive."""
    with reading(path), path.open("rb") as file:
        return zipfile.is_zipfile(file)


@contextlib.contextmanager
def opened(path: Location) -> Iterator[zipfile.ZipFile]:
    """Open an archive. Exceptions inside the block become a :class:`WeightsFileError`.

    Raises:
        WeightsFileError: see :func:`checked`.
    """
    with reading(path), path.open("rb") as file, checked(path, file, path.stat().st_size) as archive:
        yield archive


@contextlib.contextmanager
def checked(path: Location, file: IO[bytes], size: int) -> Iterator[zipfile.ZipFile]:
    """An archive in an opened file.

    Args:
        path: that errors name.
        file: the archive, opened for reading.
        size: of the archive in bytes.

    Raises:
        WeightsFileError: not a zip archive, or a member that is encrypted, has a path outside the archive, exceeds the
            file or would grow too much when decompressed.
    """
    with reading(path), zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            _check(path, member, size)
        yield archive


def _check(path: Location, member: zipfile.ZipInfo, size: int) -> None:
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/"):
        raise WeightsFileError(path, f"member {member.filename!r} leads out of the archive")
    if member.flag_bits & 1:
        raise WeightsFileError(path, f"member {member.filename!r} is encrypted")
    stored, inflated = member.compress_size, member.file_size
    if member.header_offset + stored > size:
        raise WeightsFileError(path, f"truncated: member {member.filename!r} lies beyond the end of the file")
    if member.compress_type == zipfile.ZIP_STORED and stored != inflated:
        raise WeightsFileError(path, f"member {member.filename!r} declares {inflated} bytes and stores {stored}")
    check_inflation(path, member.filename, stored, inflated)


def start_of(path: Location, raw: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Offset of the data of a member in the file: after its local header, name and extra field.

    Raises:
        WeightsFileError: there is no such header.
    """
    raw.seek(member.header_offset)
    header = raw.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise WeightsFileError(path, f"member {member.filename!r} has no local header")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return member.header_offset + 30 + name + extra


def contents(path: Location, archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A whole member of at most ``limit`` bytes.

    Raises:
        WeightsFileError: it is longer.
    """
    if archive.getinfo(name).file_size > limit:
        raise WeightsFileError(path, f"member {name!r} is longer than {limit} bytes")
    return archive.read(name)
