"""A fork server with Lightning already imported, for the tests that run Lightning programs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from fork_server import ForkServer, fork_server
from programs import program_environment


@pytest.fixture(scope="session")
def lightning() -> Iterator[ForkServer]:
    if importlib.util.find_spec("pytorch_lightning") is None:
        pytest.skip("needs pytorch_lightning")
    with fork_server("pytorch_lightning", "ww_callbacks.torch", environment=program_environment()) as server:
        yield server
