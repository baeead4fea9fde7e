"""Shared by all readers of weights files: the error class, and limits on decompression."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ww_callbacks.weights.files.urls import is_url

if TYPE_CHECKING:
    from ww_callbacks.weights.files.remote import Location

MAX_INFLATION, MAX_INFLATED_BYTES = 200, 2**28
"""Largest growth of a compressed array: 200-fold, or to 256 MiB. Trained weights stay far below."""

MAX_EMPTY = 50_000
"""Most tensors without numbers. A file of a few bytes for each could hold millions."""


class WeightsFileError(ValueError):
    """A file that cannot be read as weights; the message names the file and the cause.

    Attributes:
        path: of the file; a text for a URL.
        cause: why it cannot be read.

    Example:
        >>> import ww_callbacks as ww
        >>> ww.analyze("missing.safetensors")
        Traceback (most recent call last):
        ww_callbacks.weights.files.errors.WeightsFileError: ...missing.safetensors: no such file or directory
    """

    def __init__(self, path: Location | str, cause: str) -> None:
        shown = str(path)
        super().__init__(f"{shown}: {cause}")
        self.path: Path | str = shown if is_url(shown) else Path(shown)
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.cause)


@contextlib.contextmanager
def reading(path: Location, what: str = "cannot be read") -> Iterator[None]:
    """Turn any exception of a third-party reader into a :class:`WeightsFileError`."""
    try:
        yield
    except WeightsFileError:
        raise
    except FileNotFoundError as error:
        raise WeightsFileError(path, "no such file or directory") from error
    except MemoryError as error:
        raise WeightsFileError(path, f"{what}: it asks for more memory than there is") from error
    except Exception as error:
        raise WeightsFileError(path, f"{what}: {first_line(str(error)) or type(error).__name__}") from error


def require_regular(path: Location) -> None:
    """Refuse pipes, sockets and devices, which may never end.

    Raises:
        WeightsFileError: not a regular file.
        OSError: there is none.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise WeightsFileError(path, "not a regular file")


def first_line(text: str) -> str:
    r"""The first line of a message, of at most 300 characters.

    Example:
        >>> first_line("no such key\nwhile reading")
        'no such key'
    """
    return next(iter(text.strip().splitlines()), "")[:300]


def check_inflation(path: Location, name: str, stored: int, inflated: int) -> None:
    """Refuse data that would grow too much when it is decompressed.

    Raises:
        WeightsFileError: ``inflated`` bytes are too many for ``stored`` ones.
    """
    if inflated > max(MAX_INFLATED_BYTES, MAX_INFLATION * stored):
        raise WeightsFileError(path, f"{name!r} would grow from {stored} to {inflated} bytes, refused")


def check_empty(path: Location, count: int) -> None:
    """Refuse files with very many tensors without numbers, which are no weights and take long to list.

    Raises:
        WeightsFileError: ``count`` tensors without numbers are too many.
    """
    if count > MAX_EMPTY:
        raise WeightsFileError(path, f"holds more than {MAX_EMPTY} tensors without numbers, refused: it is no model")
