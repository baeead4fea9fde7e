"""A quick run loses no snapshot while the worker starts; the memory for the copies is bounded."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from processes import no_worker_left

import ww_callbacks as ww
from ww_callbacks.engine import resources

pytestmark = pytest.mark.timeout(120)


def test_a_quick_run_of_a_small_model_loses_no_snapshot():
    rng = np.random.default_rng(0)
    model = {"fc1": rng.standard_normal((60, 50)), "fc2": rng.standard_normal((50, 10))}
    with no_worker_left():
        with ww.Monitor(model, every_n_steps=10) as monitor:
            for step in range(1, 201):
                model["fc1"] *= 1.001
                monitor.step(step)
                time.sleep(0.001)
        assert monitor.skipped == 0
        assert monitor.history.steps == list(range(0, 201, 10))
        norms = monitor.history.series("norm", "fc1")
    assert norms == pytest.approx([norms[0] * 1.001 ** (2 * step) for step in monitor.history.steps])


class Gate(ThreadPoolExecutor):
    """One thread that begins when it is told."""

    def __init__(self):
        super().__init__(1)
        self.open = threading.Event()
        super().submit(self.open.wait, 60)


@pytest.mark.parametrize(("size", "most"), [(100, 12), (1000, 2)], ids=["small", "large"])
def test_the_copies_of_pending_snapshots_are_bounded_by_memory(monkeypatch, size, most):
    monkeypatch.setattr(resources, "SMALL_BYTES", 2**20)
    model = {"fc": np.random.default_rng(0).standard_normal((size, 100))}
    slot = -(-model["fc"].nbytes // 4096) * 4096
    with Gate() as executor:
        monitor = ww.Monitor(model, every_n_steps=1, executor=executor)
        monitor.start()
        assert monitor.status().snapshot_bytes == 2 * slot  # more only when it is needed
        for step in range(1, 20):
            monitor.step(step)
        status = monitor.status()
        assert (status.pending, status.skipped) == (most, 20 - most)
        assert status.snapshot_bytes == most * slot <= max(2**20, 2 * slot)
        executor.open.set()
        monitor.finish()
    assert monitor.history.steps == [*range(most), 19]
