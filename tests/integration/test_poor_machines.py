"""Machines that lack something: shared memory, folders that can be written, a home. Training goes on, and is told."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from elsewhere import NO_RIGHT
from programs import ROOT, Session, session

pytestmark = [pytest.mark.timeout(120), pytest.mark.linux_way]

TRAINING = """
import json, os, sys, warnings
import elsewhere
{machine}
import numpy as np
import ww_callbacks as ww
rng, options = np.random.default_rng(0), {options}
model = {{"fc": rng.standard_normal({shape}, np.float32)}}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with ww.Monitor(model, every_n_steps=1, deterministic=True, **options) as monitor:
        for step in range(1, 4):
            model["fc"] *= 1.01
            monitor.step(step)
print(json.dumps({{
    "warnings": [str(each.message) for each in caught if not issubclass(each.category, DeprecationWarning)],
    "steps": monitor.history.steps, "user": os.getuid(),
    "status": [layer.status for report in monitor.history for layer in report],
    "bytes": monitor.status().snapshot_bytes, "shared": os.listdir("/dev/shm"),
}}))
"""


@pytest.fixture
def run(tmp_path):
    with session(tmp_path) as started:
        yield started


def train(
    run: Session, machine: str, *, options: str = "{}", shape: tuple[int, int] = (80, 60), **more: Any
) -> tuple[dict[str, Any], list[str]]:
    """Run a training on a machine. Return what it printed at the end, and the lines before."""
    program = run.start(TRAINING.format(machine=machine, options=options, shape=shape), path=(ROOT / "tests",), **more)
    if program.wait() == NO_RIGHT:
        pytest.skip("the system permits no mounts, or no change of the user")
    program.succeed()
    run.assert_nothing_left(had_memory=False)
    *lines, last = program.output.splitlines()
    found = json.loads(last)
    assert found["steps"] == [0, 1, 2, 3]
    assert found["status"] == ["ok"] * 4
    return found, lines


def test_snapshots_may_be_larger_than_the_shared_memory_of_a_container(run: Session) -> None:
    machine = 'elsewhere.small_disk("/dev/shm", "64m")'
    found, lines = train(run, machine, options='{"randomize": False}', shape=(150_000, 60))
    assert found["bytes"] > 64 * 2**20
    assert (lines, found["warnings"], found["shared"]) == ([], [], [])


def test_where_nothing_can_be_written_each_output_says_so_once(run: Session) -> None:
    found, lines = train(run, "elsewhere.read_only()", options='{"log_dir": "logs", "jsonl": True}')
    assert lines == []
    assert len(found["warnings"]) == 2
    for message in found["warnings"]:
        assert "results are not written: [Errno 30] Read-only file system" in message
    assert not (run.folder / "logs").exists()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write, below none that they may not enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


@pytest.mark.parametrize("figures", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("home", ["", "/nonexistent"], ids=["home unknown", "home missing"])
def test_another_user_without_a_home_has_all_results_and_leaves_no_file(
    run: Session, open_folder: Path, figures: bool, home: str
) -> None:
    machine = "elsewhere.as_nobody(); os.environ.get('HOME') or os.environ.pop('HOME', None)"
    options = f'{{"log_dir": {str(open_folder / "logs")!r}, "jsonl": True, "figures": {figures}, "timeout": 60}}'
    found, lines = train(run, machine, options=options, environment={"HOME": home, "TMPDIR": str(open_folder)})
    assert [line for line in lines if "for the figures" not in line] == found["warnings"] == []
    assert found["user"] == (65534 if os.getuid() == 0 else os.getuid())
    assert os.listdir(open_folder) == ["logs"]  # of matplotlib neither
    assert sorted(os.listdir(open_folder / "logs")) == ["ww", "ww_history.jsonl"]
