"""Tests of the Keras front end; KERAS_BACKEND chooses the backend of a whole run, torch where it is not set."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import workers

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

found = importlib.util.find_spec("keras")
if found is None or found.origin is None:  # without Keras the name leads to the folder of these tests
    collect_ignore_glob = ["test_*.py"]
else:
    import keras

    sys.path.append(str(Path(__file__).resolve().parents[1] / "integration"))  # for `programs`


@pytest.fixture(scope="session")
def trials() -> Iterator[Callable[[str, int, int], int]]:
    from trials import Trials

    made = Trials()
    yield made
    made.close()


@pytest.fixture
def quick_trials(monkeypatch: pytest.MonkeyPatch, trials: Callable[[str, int, int], int]) -> None:
    """Try HDF5 files in a child all the same, but in one that is already running."""
    from ww_callbacks.weights.files import hdf5

    monkeypatch.setattr(hdf5, "try_alone", trials)


@pytest.fixture(autouse=True)
def nothing_survives() -> Iterator[None]:
    yield
    assert not workers()


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads of torch on busy cores take many times as long for networks as small as these."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
