"""Writes snapshots to a folder. A file gets its name when it is complete, so that nobody reads half of it."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from ww_callbacks.weights.files.safetensors import nbytes_of
from ww_callbacks.weights.files.snapshots import Described, snapshot_header
from ww_callbacks.worker.protocol import Message, send_all
from ww_callbacks.worker.task import timed

_NAME = re.compile(r"step-(\d+)\.safetensors")


def snapshot_path(folder: Path, step: int) -> Path:
    """The file of the snapshot of a step.

    Example:
        >>> snapshot_path(Path("spool"), 400).as_posix()
        'spool/step-000000400.safetensors'
    """
    return folder / f"step-{step:09d}.safetensors"


def spooled_steps(folder: Path) -> list[int]:
    """The steps of the snapshots in a folder, ascending; none if it cannot be read."""
    with contextlib.suppress(OSError):
        return sorted(int(found[1]) for name in os.listdir(folder) if (found := _NAME.fullmatch(name)))
    return []


def make_spool_task(folder: Path, step: int, described: Described, offsets: Sequence[int]) -> Message:
    """Create a task for :func:`run_spooling`.

    Args:
        folder: where the file is written; an absolute path.
        step: finished optimizer steps.
        described: the layers.
        offsets: where the weights of each analysed layer lie in the shared memory.
    """
    return {
        "spool": str(snapshot_path(folder, step)),
        "step": step,
        "layers": described.layers,
        "tensors": described.tensors,
        "offsets": [offsets[index] for index in described.indices],
    }


def run_spooling(task: Message, memory: mmap.mmap) -> Message:
    """Write a snapshot.

    Args:
        task: of :func:`make_spool_task`.
        memory: the shared memory. Its pages are written to the file as they are, without a copy in this process.

    Returns:
        "spooled", the file; or "error", a description, if it was not written. Additionally "cpu", the CPU time in
        seconds.
    """
    return timed(lambda: _spool(task, memory))


def discard_draft(task: Message) -> None:
    """Remove what a worker that ended has left of a file."""
    with contextlib.suppress(OSError):
        _draft_of(Path(task["spool"])).unlink()


def _spool(task: Message, memory: mmap.mmap) -> Message:
    header = snapshot_header(task["layers"], task["tensors"], task["step"])
    ends = [offset + nbytes_of(*tensor[1:]) for tensor, offset in zip(task["tensors"], task["offsets"], strict=True)]
    view = memoryview(memory)
    numbers = (view[offset:end] for offset, end in zip(task["offsets"], ends, strict=True))
    _write(Path(task["spool"]), chain([header], numbers))
    return {"spooled": task["spool"]}


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file under another name, then give it its name; there is no wait for the disk.

    Raises:
        OSError: it cannot be written, or another process writes the same file. What was written is removed.
    """
    draft = _draft_of(path)
    draft.unlink(missing_ok=True)  # of a training that was killed
    with draft.open("xb", buffering=0) as file:
        ours = os.fstat(file.fileno())
        try:
            for part in parts:
                send_all(file.fileno(), part)
            file.close()  # some file systems say only now that the disk is full
            if not os.path.samestat(ours, draft.stat()):
                raise FileExistsError(f"another process writes {path.name}")
            draft.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                if os.path.samestat(ours, draft.stat()):
                    draft.unlink()
            raise


def _draft_of(path: Path) -> Path:
    """A name that followers leave out."""
    return path.with_name(f".{path.name}.part")
