"""Shared by all readers of weights files: the error class, and limits on decompression."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_INFLATION, MAX_INFLATED_BYTES = 200, 2**28
"""Largest growth of a compressed array: 200-fold, or to 256 MiB. Trained weights stay far below."""


class WeightsFileError(ValueError):
    """A file that cannot be read as weights; the message names the file and the cause.

    Example:
        >>> import ww_callbacks as ww
        >>> ww.analyze("missing.safetensors")
        Traceback (most recent call last):
        ww_callbacks.weights.files.errors.WeightsFileError: ...missing.safetensors: no such file or directory
    """

    def __init__(self, path: Path | str, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path, self.cause = Path(path), cause

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.cause)


@contextlib.contextmanager
def reading(path: Path, what: str = "cannot be read") -> Iterator[None]:
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
        raise WeightsFileError(path, f"{what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def check_inflation(path: Path, name: str, stored: int, inflated: int) -> None:
    """Refuse data that would grow too much when it is decompressed.

    Raises:
        WeightsFileError: ``inflated`` bytes are too many for ``stored`` ones.
    """
    if inflated > max(MAX_INFLATED_BYTES, MAX_INFLATION * stored):
        raise WeightsFileError(path, f"{name!r} would grow from {stored} to {inflated} bytes, refused")
