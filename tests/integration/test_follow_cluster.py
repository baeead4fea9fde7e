"""Each test runs in a separate interpreter: helper processes of pools and clusters exit with it."""

import pytest
from programs import Session, require

pytestmark = pytest.mark.timeout(120)

PREAMBLE = """
import os, random, signal, subprocess, sys, threading, time
import numpy as np
import ww_callbacks as ww

def write(folder, steps, layers, shape):
    rng = np.random.default_rng(0)
    os.makedirs(folder)
    for step in steps:
        names = [f"fc{i}.weight" for i in range(layers)]
        weights = {name: rng.standard_normal((shape[0] + i, shape[1])) for i, name in enumerate(names)}
        np.savez(f"{folder}/step-{step}.npz", norm=np.ones(5), **weights)

def is_same(found, expected):
    "Sums may be rounded differently where the number of threads is not fixed."
    return found.keys() == expected.keys() and all(
        np.isclose(found[k], v, rtol=1e-8) if isinstance(v, float) else found[k] == v for k, v in expected.items()
    )

def values(layer, **others):
    "All columns of a layer; files of results hold no histogram."
    return layer.to_dict() | {"histogram": None, **others}

def check(executor, steps=(1, 2, 3), layers=12, shape=(90, 60), **arguments):
    "Follow a run, and compare every value with the analysis of its checkpoints."
    write("run", steps, layers, shape)
    history = ww.follow("run", once=True, figures=False, executor=executor, **arguments)
    assert history.steps == list(steps)
    for report in ww.read_jsonl("run/ww_follow/ww_history.jsonl"):
        expected = ww.analyze(f"run/step-{report.step}.npz", workers=1, **arguments)
        assert [layer.name for layer in report] == [layer.name for layer in expected]
        assert [layer.status for layer in report].count("ok") == layers
        for found, known in zip(report, expected):
            assert is_same(values(found), values(known, step=found.step)), (found, known)

def check_updates(executor):
    "Compare every value with those of worker processes."
    write("changing", (1, 2, 3), 6, (90, 60))
    for place, arguments in (("here", {}), ("there", {"executor": executor})):
        ww.follow("changing", once=True, figures=False, log_dir=place, updates=True, **arguments)
    here, there = (ww.read_jsonl(f"{place}/ww_history.jsonl") for place in ("here", "there"))
    assert here.steps == there.steps == [1, 2, 3]
    for ours, known in zip(there, here, strict=True):
        assert all(is_same(a.to_dict(), b.to_dict()) for a, b in zip(ours, known, strict=True))
    assert there[2]["fc0"].update_since == 2 and there[2]["fc0"].learned_since == 1
"""


def test_processes_read_their_layers_themselves(run: Session):
    run.run_main(
        PREAMBLE,
        """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
    check(pool)
    check_updates(pool)
""",
    )


def test_a_cluster_of_dask_reads_its_layers_itself_and_survives_killed_workers(run: Session):
    require("distributed")
    run.run_main(
        PREAMBLE,
        """
from distributed import Client, LocalCluster
with LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
    pids = list(client.run(os.getpid).values())
    killer = threading.Timer(1.0, lambda: [os.kill(pid, signal.SIGKILL) for pid in pids[:2]])
    killer.start()
    check(client)
    killer.join()
    check_updates(client)
""",
    )


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize(("seed", "resources"), [(0, None), (1, None), (2, {"memory": 12e6})])
def test_reports_are_complete_when_workers_are_killed_at_random(run: Session, seed, resources):
    """Up to ten kills in four checkpoints; with resources, all tasks wait on workers, which end with them."""
    require("distributed")
    run.run_main(
        PREAMBLE,
        f"""
from distributed import Client, LocalCluster
done = threading.Event()
kills = []

def kill_at_random(cluster):
    rng = random.Random({seed})
    while len(kills) < 10 and not done.wait(rng.uniform(0.3, 2.0)):
        pid = rng.choice(list(cluster.workers.values())).pid
        if pid:
            os.kill(pid, signal.SIGKILL)
            kills.append(pid)

with LocalCluster(
    n_workers=4, threads_per_worker=1, dashboard_address=None, resources={resources}
) as cluster, Client(cluster) as client:
    killer = threading.Thread(target=kill_at_random, args=(cluster,))
    killer.start()
    try:
        check(client, steps=(1, 2, 3, 4), layers=20, shape=(700, 500))
    finally:
        done.set()
        killer.join()
assert len(kills) >= 3, kills
""",
        timeout=600,
    )


@pytest.mark.slow
def test_layers_that_only_waited_on_a_killed_worker_are_analysed(run: Session):
    """Dask gives up all tasks of a worker that ends, here at the first time, also those that wait there."""
    require("distributed")
    run.run_main(
        PREAMBLE,
        """
import dask
from distributed import Client, LocalCluster, SchedulerPlugin

class Killer(SchedulerPlugin):
    killed, given_up = [], []
    def transition(self, key, start, finish, *args, **kwargs):
        if "read_and_run" in str(key) and finish == "erred":
            self.given_up.append(key)
        elif "read_and_run" in str(key) and finish == "memory" and not self.killed:
            self.killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(self.killed[0], signal.SIGKILL)

dask.config.set({"distributed.scheduler.allowed-failures": 0})
with LocalCluster(
    n_workers=2, threads_per_worker=1, dashboard_address=None, resources={"memory": 12e6}
) as cluster, Client(cluster) as client:
    cluster.scheduler.add_plugin(Killer())
    check(client, steps=(1,), layers=20, shape=(700, 500))
assert len(Killer.given_up) > 1, Killer.given_up
""",
    )


@pytest.mark.slow
def test_a_cluster_that_has_no_workers_yet_learns_their_memory(run: Session):
    """Tasks that need more than any worker has take all of the largest; they would wait forever otherwise."""
    require("distributed")
    run.run_main(
        PREAMBLE,
        """
from distributed import Client, LocalCluster, SchedulerPlugin

class Stated(SchedulerPlugin):
    memory = set()
    def transition(self, key, start, finish, *args, **kwargs):
        if finish == "processing" and "read_and_run" in str(key):
            self.memory.add(cluster.scheduler.tasks[key].resource_restrictions["memory"])

with LocalCluster(
    n_workers=0, threads_per_worker=1, dashboard_address=None, resources={"memory": 131_000}
) as cluster, Client(cluster) as client:
    cluster.scheduler.add_plugin(Stated())
    cluster.adapt(minimum=0, maximum=1)
    check(client)
assert max(Stated.memory) == 131_000 > min(Stated.memory) == 3 * 8 * 90 * 60, Stated.memory
""",
    )


@pytest.mark.slow
def test_at_most_one_percent_of_the_weights_crosses_the_scheduler(run: Session):
    """All connections to the scheduler lead through a proxy that counts bytes in both directions."""
    require("distributed")
    run.run_main(
        PREAMBLE,
        """
from distributed import Client, LocalCluster
from counting_proxy import CountingProxy

with LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1") as cluster:
    with CountingProxy(cluster.scheduler.port) as proxy:
        address = f"tcp://127.0.0.1:{proxy.port}"
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-dashboard"]
        workers = subprocess.Popen([*command, "--nworkers", "2", "--nthreads", "1", "--host", "127.0.0.1"])
        try:
            with Client(address) as client:
                client.wait_for_workers(2, timeout=60)
                before = proxy.count
                check(client, steps=(1,), layers=10, shape=(2000, 250), randomize=False)
                crossed = proxy.count - before
        finally:
            workers.terminate()
            workers.wait(30)
weights = sum(8 * (2000 + i) * 250 for i in range(10))
print(f"{crossed} of {weights} bytes")
assert 5000 < crossed < weights / 100, (crossed, weights)
""",
    )
