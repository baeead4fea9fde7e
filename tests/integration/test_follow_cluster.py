"""Each test runs in a separate interpreter: helper processes of pools and clusters exit with it."""

import pytest
from programs import Session, session

pytestmark = pytest.mark.timeout(120)

PREAMBLE = """
import os, signal, threading, time
import numpy as np
import ww_callbacks as ww

def write(folder, steps, layers=12):
    rng = np.random.default_rng(0)
    for step in steps:
        weights = {f"fc{i}.weight": rng.standard_normal((90 + i, 60)) for i in range(layers)}
        np.savez(f"{folder}/step-{step}.npz", norm=np.ones(5), **weights)

def rows(folder):
    return [layer.to_dict() for report in ww.read_jsonl(f"{folder}/ww_history.jsonl") for layer in report]

def is_same(found, expected):
    "Sums may be rounded differently where the number of threads is not fixed."
    return all(
        a.keys() == b.keys()
        and all(np.isclose(a[k], b[k], rtol=1e-8) if isinstance(b[k], float) else True for k in b)
        for a, b in zip(found, expected, strict=True)
    )

def check(executor, **arguments):
    os.makedirs("run")
    write("run", (1, 2, 3))
    ww.follow("run", once=True, figures=False, log_dir="here", **arguments)
    history = ww.follow("run", once=True, figures=False, log_dir="there", executor=executor, **arguments)
    assert history.steps == [1, 2, 3]
    assert len(rows("there")) == 39
    assert is_same(rows("there"), rows("here"))
"""


@pytest.fixture
def run(tmp_path):
    with session(tmp_path) as started:
        yield started


def run_main(run: Session, body: str) -> None:
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    run.run(f'{PREAMBLE}\nif __name__ == "__main__":\n{indented}')
    run.assert_nothing_left(timeout=10.0, had_memory=False)


def test_processes_read_their_layers_themselves(run: Session):
    run_main(
        run,
        """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
    check(pool, updates=True)
""",
    )


def test_a_cluster_of_dask_reads_its_layers_itself_and_survives_killed_workers(run: Session):
    pytest.importorskip("distributed")
    run_main(
        run,
        """
from distributed import Client, LocalCluster
with LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
    pids = list(client.run(os.getpid).values())
    killer = threading.Timer(1.0, lambda: [os.kill(pid, signal.SIGKILL) for pid in pids[:2]])
    killer.start()
    check(client, updates=True)
    killer.join()
""",
    )
