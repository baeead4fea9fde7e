"""DataLoaders with worker processes, together with the monitor."""

from __future__ import annotations

import pytest
from programs import LOADER_EXIT_TIMEOUT, session

pytestmark = pytest.mark.timeout(180)

PROGRAM = """
if __name__ == "__main__":  # a spawned DataLoader process imports this script again, so Lightning is imported here
    import sys
    from programs import fit, save
    from ww_callbacks.lightning import SpectralMonitor

    monitor = SpectralMonitor(every_n_steps=5, deterministic=True)
    fit(monitor, steps=12, loader_workers=1, loader_context=sys.argv[1])
    save(monitor.history.steps)
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_loader_processes_do_not_change_snapshots_and_none_survives(tmp_path, lightning, context):
    with session(tmp_path) as run:
        run.start(PROGRAM, context, server=lightning).succeed(timeout=120)
        assert run.json() == [0, 5, 10, 12]
        run.assert_nothing_left(timeout=LOADER_EXIT_TIMEOUT, had_memory=False)
