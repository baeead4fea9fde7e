"""Makes `processes` importable from tests in all folders, and runs them as other systems would."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes share the cores; before numpy is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from elsewhere import take_away


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--elsewhere",
        action="store_true",
        help="run as on other systems: weights in temporary files, a thread that watches the trainer",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell lets what it runs in the background ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--elsewhere"):
        take_away()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--elsewhere"):
        skip = pytest.mark.skip(reason="about what only Linux has")
        for item in items:
            if item.get_closest_marker("linux_way") is not None:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    """Where a test has loaded pyplot, figures belong to it until they are closed."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
