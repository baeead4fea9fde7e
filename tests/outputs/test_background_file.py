"""A file that its own thread writes. A pipe that nobody reads is a disk that takes nothing."""

from __future__ import annotations

import fcntl
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import eventually

import ww_callbacks as ww
from ww_callbacks.outputs import background, background_file
from ww_callbacks.outputs.background_file import AppendedFile

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="the size of a pipe is set on Linux only"),
]


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Path]:
    """A path that takes 4 KiB and then nothing."""
    path = tmp_path / "stuck"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    yield path
    os.close(reader)  # the blocked thread gets an error and ends


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ww_callbacks file"]


def test_pieces_are_in_the_file_in_their_order_and_the_thread_is_gone(tmp_path: Path) -> None:
    pieces = [f"{number}\n".encode() * 1000 for number in range(100)]
    for part in (pieces[:50], pieces[50:]):
        file = AppendedFile(tmp_path / "file", "ab")
        for piece in part:
            file.write(lambda piece=piece: piece)
        file.close()
        assert not writers()
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_a_file_that_is_forgotten_is_complete_and_closed(tmp_path: Path) -> None:
    file = AppendedFile(tmp_path / "file", "xb")
    file.write(lambda: b"all of it")
    del file
    gc.collect()
    assert not writers()
    assert (tmp_path / "file").read_bytes() == b"all of it"


def test_an_error_is_told_at_the_next_piece_and_again_at_the_end() -> None:
    file = AppendedFile("/dev/full", "ab")
    file.write(lambda: b"piece")
    assert eventually(lambda: file._background.errors, 20.0)
    with pytest.raises(OSError, match="No space left"):
        file.write(lambda: b"piece")
    with pytest.raises(OSError, match="No space left"):
        file.close()


def test_a_wait_for_a_slow_disk_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ww_callbacks.outputs.background.SILENT", 0.05)
    file, has_waited = AppendedFile(tmp_path / "file", "xb"), threading.Event()
    file.write(lambda: b"late" if has_waited.wait(0.3) else b"late, as it should be")
    file.close()
    assert caplog.messages == [f"waiting at most 4.95 s for {tmp_path / 'file'}: the disk"]
    assert (tmp_path / "file").read_bytes() == b"late, as it should be"


def watch(jsonl: Path, steps: int) -> ww.Monitor:
    """A training that writes to the path."""
    model = {"fc": np.random.default_rng(0).standard_normal((60, 40))}
    with ww.Monitor(model, every_n_steps=1, executor="sync", jsonl=jsonl) as monitor:
        for step in range(1, steps + 1):
            monitor.step(step)
    return monitor


def test_a_disk_that_takes_nothing_for_long_is_given_up_and_training_goes_on(
    stuck: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "MOST_WAITING", 10)
    with pytest.warns(
        RuntimeWarning, match="JsonlOutput is disabled: TimeoutError: .*stuck: the disk is too slow, 10 pieces"
    ) as caught:
        monitor = watch(stuck, 40)
    assert len(caught) == 1
    assert monitor.history.steps == list(range(41))


def test_the_end_of_training_waits_for_a_slow_disk_so_long_and_no_longer(
    stuck: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_file, "CLOSE_TIMEOUT", 0.2)
    with pytest.warns(RuntimeWarning, match="the disk is too slow, not all is written after 0.2 s") as caught:
        monitor = watch(stuck, 20)
    assert len(caught) == 1
    assert monitor.history.steps == list(range(21))
