"""What the integration tests share: a session of programs, and a fork server with Lightning already imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from fork_server import ForkServer, fork_server
from programs import Session, program_environment, session


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Session]:
    with session(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def lightning() -> Iterator[ForkServer]:
    if importlib.util.find_spec("pytorch_lightning") is None:
        pytest.skip("needs pytorch_lightning")
    with fork_server("pytorch_lightning", "ww_callbacks.torch", environment=program_environment()) as server:
        yield server
