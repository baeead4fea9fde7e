"""Executors passed in by the user: all give the same results, and training continues if one dies.

Each test runs in a separate interpreter: helper processes of pools (resource trackers, nannies) exit with it.
"""

from __future__ import annotations

import pytest
from programs import Session, require

pytestmark = pytest.mark.timeout(120)

PREAMBLE = """
import math, multiprocessing, os, signal, time, warnings
import numpy as np
import ww_callbacks as ww
from programs import save, set_layer_timeout

def weights():
    rng = np.random.default_rng(0)
    return {"fc": rng.standard_normal((90, 60)), "wide": rng.standard_normal((60, 200)), "tiny": np.ones(3)}

def train(monitor, steps):
    model = monitor.model
    for step in steps:
        model["fc"] *= 1.5
        monitor.step(step)

def rows(executor):
    with ww.Monitor(weights(), executor=executor, every_n_steps=1, deterministic=True) as monitor:
        train(monitor, range(1, 4))
    return [layer.to_dict() for report in monitor.history for layer in report]

def is_same(found, expected):
    "Compare all columns. Sums may be rounded differently: their order can depend on threads and alignment."
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(is_same(found[key], expected[key]) for key in expected)
    if isinstance(expected, float):
        return isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-8)
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(is_same, found, expected))
    return found == expected

def check(pool):
    assert is_same(rows(pool), rows("sync"))
    assert pool.submit(math.sqrt, 4.0).result(timeout=30) == 2.0, "the monitor shut the pool down"

def kill_during_training(pool, kill, **arguments):
    "Kill the executor after the first result and continue training. Return the warnings of this package."
    monitor = ww.Monitor(weights(), executor=pool, every_n_steps=1, deterministic=True, **arguments)
    monitor.start()
    assert monitor.wait_for_first()
    kill()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(monitor, range(1, 8))
        monitor.finish()
    assert monitor.closed and monitor.history.steps[0] == 0
    return [str(each.message) for each in caught if str(each.message).startswith("ww_callbacks")]
"""


SPAWN = 'multiprocessing.get_context("spawn")'


def test_spawned_process_pool(run: Session):
    run.run_main(
        PREAMBLE,
        f"""
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(2, mp_context={SPAWN}) as pool:
    check(pool)
""",
    )


def test_loky(run: Session):
    require("loky")
    run.run_main(
        PREAMBLE,
        """
import loky
pool = loky.ProcessPoolExecutor(2)
check(pool)
pool.shutdown(kill_workers=True)
""",
    )


def test_training_continues_if_the_pool_is_killed(run: Session):
    run.run_main(
        PREAMBLE,
        f"""
from concurrent.futures import ProcessPoolExecutor
import sys
pool = ProcessPoolExecutor(1, mp_context={SPAWN})
def kill():
    for process in list(pool._processes.values()):
        os.kill(process.pid, signal.SIGKILL)
save(kill_during_training(pool, kill))
if sys.version_info < (3, 11, 5):
    os._exit(0)  # in older versions a broken pool waits for its pipe forever (CPython gh-94777)
pool.shutdown()
""",
    )
    (message,) = run.json()
    assert "training continues" in message
    assert "the executor failed" in message


DASK = """
import dask, logging
from distributed import Client, LocalCluster
logging.getLogger("distributed").setLevel(logging.CRITICAL)
cluster = LocalCluster(
    n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
)
client = Client(cluster)
dask.config.set({"distributed.admin.large-graph-warning-threshold": "10 kB"})
warnings.filterwarnings("error", "Sending large graph")
"""


def test_dask_gives_the_same_results_and_training_continues_without_a_worker_the_client_or_the_cluster(run: Session):
    require("distributed")
    run.run_main(
        PREAMBLE,
        DASK
        + """
check(client)
check(client.get_executor())
messages = {}
one = next(iter(client.run(os.getpid).values()))
messages["worker"] = kill_during_training(client, lambda: os.kill(one, signal.SIGKILL))
assert is_same(rows(client), rows("sync"))
set_layer_timeout(5.0)
other = Client(cluster, set_as_default=False)
messages["client"] = kill_during_training(other, lambda: other.close(timeout=5), timeout=8.0)
messages["cluster"] = kill_during_training(client, lambda: cluster.close(timeout=10), timeout=8.0)
client.close(timeout=5)
save(messages)
""",
    )
    messages = run.json()
    assert messages["worker"] == []
    for (message,) in (messages["client"], messages["cluster"]):
        assert "monitoring has ended, training continues" in message
        assert "the executor failed" in message or "no result within 5 s" in message


def test_a_submit_that_never_returns_does_not_delay_the_exit(run: Session):
    run.run_main(
        PREAMBLE,
        """
import threading
from concurrent.futures import Executor
class Stuck(Executor):
    def submit(self, fn, /, *args, **kwargs):
        threading.Event().wait()
monitor = ww.Monitor(weights(), executor=Stuck(), every_n_steps=1, timeout=0.2)
train(monitor, range(1, 4))
save(monitor.status().pending)
""",
    )
    assert run.json() == 3
