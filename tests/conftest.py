"""Makes `processes` importable from tests in all folders and can run them as on other systems."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER" in os.environ:  # test processes share the cores; must precede numpy
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
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells start background jobs this way
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--elsewhere"):
        take_away()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--elsewhere"):
        skip = pytest.mark.skip(reason="tests a feature of Linux")
        for item in items:
            if item.get_closest_marker("linux_way") is not None:
                item.add_marker(skip)


MANY_MODULES = 100
frozen_modules = 0


def pytest_runtest_setup() -> None:
    """Exclude imported modules from garbage collection.

    `gc.collect()` then visits the objects of the tests only. With all frameworks loaded it takes 0.3 s otherwise.
    Garbage of a test is still found: objects are excluded before the test runs, and after a collection.
    """
    global frozen_modules
    if len(sys.modules) >= frozen_modules + MANY_MODULES:
        gc.collect()
        gc.freeze()
        frozen_modules = len(sys.modules)


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    """Close the figures that a test leaves open, if pyplot is loaded."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
