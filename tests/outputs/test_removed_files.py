"""Files that are removed while a training writes them: said once, and later results are in new files."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import eventually

import ww_callbacks as ww
from ww_callbacks.outputs.tensorboard import records

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(os.name == "nt", reason="open files cannot be removed")]


def messages(folder: Path, remove_at: dict[int, Path], *, block: bool = False) -> list[str]:
    """Train for 12 steps, remove folders after some of them, and return what was said."""
    model = {"fc": np.random.default_rng(0).standard_normal((60, 40))}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ww.Monitor(
            model, every_n_steps=1, executor="sync", log_dir=folder / "logs", jsonl=folder / "h.jsonl", figures=False
        ) as monitor:
            for step in range(1, 13):
                monitor.step(step)
                if step in remove_at:
                    assert eventually(lambda: has_step(folder, step))  # noqa: B023
                    shutil.rmtree(remove_at[step])
                    if block:
                        remove_at[step].touch()  # no folder can be made there
    assert monitor.history.steps == list(range(13))
    return [str(each.message) for each in caught if not issubclass(each.category, DeprecationWarning)]


def has_step(folder: Path, step: int) -> bool:
    """Whether both files have a step; each is written by its own thread."""
    events = [event for path in (folder / "logs" / "ww").glob("*") for event in read_events(path)]
    shown = [event.step for event in events if has_alpha(event)]
    return steps_in(folder / "h.jsonl")[-1:] == shown[-1:] == [step]


def steps_in(path: Path) -> list[int | None]:
    return ww.read_jsonl(path).steps if path.exists() else []


def test_removed_folders_are_made_again_and_it_is_said_once_per_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    said = messages(folder, {4: folder, 8: folder})
    assert len(said) == 2
    assert all("was removed during the run: a new file has the later results, not the earlier ones" in s for s in said)
    assert sorted("events.out.tfevents" in s for s in said) == [False, True]
    assert steps_in(folder / "h.jsonl") == [9, 10, 11, 12]
    (file,) = (folder / "logs" / "ww").iterdir()
    events = read_events(file)
    assert events[0].file_version == "brain.Event:2"  # a whole file, with the layout of the page
    assert events[1].summary.value[0].tag == "custom_scalars__config__"
    assert [event.step for event in events if has_alpha(event)] == [9, 10, 11, 12]


def read_events(path: Path) -> list[Any]:
    """The events of a file, without TensorBoard's own reader, which loads TensorFlow."""
    from tensorboard.compat.proto.event_pb2 import Event

    with path.open("rb") as file:
        return [Event.FromString(data) for data in records(file)]


def has_alpha(event: Any) -> bool:
    return any(value.tag == "ww/alpha" for value in event.summary.value)


def test_what_cannot_be_made_again_is_disabled_and_the_other_output_goes_on(tmp_path: Path) -> None:
    said = messages(tmp_path, {4: tmp_path / "logs"}, block=True)
    (message,) = said
    assert "TensorBoardOutput is disabled: OSError: " in message
    assert "was removed during the run and cannot be written again" in message
    assert steps_in(tmp_path / "h.jsonl") == list(range(13))


def test_a_folder_that_is_renamed_keeps_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    model = {"fc": np.random.default_rng(0).standard_normal((60, 40))}
    with ww.Monitor(model, every_n_steps=1, executor="sync", jsonl=folder / "h.jsonl") as monitor:
        monitor.step(1)
        folder.rename(tmp_path / "renamed")
        monitor.step(2)
    assert steps_in(tmp_path / "renamed" / "h.jsonl") == [0, 1, 2]
    assert not folder.exists()
