"""Unchanged layers, limits of memory, what the monitoring says of itself, and waiting."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.engine import wait_for
from ww_callbacks.worker.task import run_task

pytestmark = pytest.mark.timeout(60)


def two():
    rng = np.random.default_rng(0)
    return {"frozen": rng.standard_normal((400, 300)), "moving": rng.standard_normal((80, 60))}


@pytest.mark.parametrize("executor", ["sync", "process"])
def test_an_unchanged_layer_is_not_analysed_again_and_its_result_is_repeated_at_the_new_step(executor, monkeypatch):
    answers = []

    def told(task, stored, kept):
        answers.append(run_task(task, stored, kept))
        return answers[-1]

    if executor == "sync":
        monkeypatch.setattr("ww_callbacks.engine.resources.run_task", told)
    model = two()
    with ww.Monitor(model, executor=executor, every_n_steps=1, deterministic=True) as monitor:
        for step in range(1, 4):
            model["moving"] *= 2
            monitor.step(step)
    frozen = [report["frozen"] for report in monitor.history]
    assert [layer.step for layer in frozen] == [0, 1, 2, 3]
    assert len({layer.alpha for layer in frozen}) == 1
    assert [layer.unchanged_since for layer in frozen] == [None, 0, 0, 0]
    assert {report["moving"].unchanged_since for report in monitor.history} == {None}
    assert all(layer.histogram is None or layer.histogram.counts for layer in frozen)
    moving = monitor.history.series("norm", "moving")
    assert moving == pytest.approx([moving[0] * 4**step for step in range(4)])
    if executor == "sync":
        assert ["unchanged" in answer for answer in answers] == [False, False, True, False, True, False, True, False]
        assert answers[2]["cpu"] < answers[0]["cpu"] / 2


def test_a_frozen_layer_is_known_though_all_snapshots_were_pending_before_the_first_result():
    model, ready = two() | {"back": np.random.default_rng(1).standard_normal((80, 60))}, Event()
    first, other = model["back"].copy(), -2 * model["back"]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ready.wait, 30)
        with ww.Monitor(model, executor=pool, every_n_steps=1) as monitor:
            for step in range(1, 5):
                model["moving"] *= 2
                model["back"][:] = other if step == 2 else first
                monitor.step(step)
            assert not len(monitor.history)
            ready.set()
    assert monitor.history.series("unchanged_since", "frozen") == [None, 0, 0, 0, 0]
    assert monitor.history.series("unchanged_since", "moving") == [None] * 5
    assert monitor.history.series("unchanged_since", "back") == [None, 0, None, None, 3]
    assert [found.layers for found in monitor.history.findings if found.kind == "frozen"] == [("frozen", "back")]


def test_a_change_of_one_bit_is_a_change():
    model = two()
    with ww.Monitor(model, executor="sync", every_n_steps=1) as monitor:
        model["frozen"][7, 7] = np.nextafter(model["frozen"][7, 7], 10)
        monitor.step(1)
        model["frozen"][7, 7] = np.nan
        monitor.step(2)
    assert [report["frozen"].status for report in monitor.history] == ["ok", "ok", "failed"]
    assert [report["frozen"].unchanged_since for report in monitor.history] == [None, None, None]


def test_a_budget_fits_into_less_memory_than_the_whole_network(monkeypatch):
    model = two()
    largest = model["frozen"].nbytes
    monkeypatch.setattr("ww_callbacks.engine.resources.ROTATION_BYTES", largest)
    with ww.Monitor(model, executor="sync", every_n_steps=1, budget="10s") as monitor:
        for step in range(1, 4):
            monitor.step(step)
        assert monitor.status().snapshot_bytes <= 2 * (largest + 2 * 4096)
    assert {layer.status for layer in monitor.history[-1]} == {"ok"}


def test_the_status_counts_and_the_end_is_one_line_of_log(caplog):
    model = two()
    with caplog.at_level(logging.INFO, "ww_callbacks"), ww.Monitor(model, every_n_steps=1) as monitor:
        assert monitor.wait_for_first()
        status = monitor.status()
        assert (status.snapshots, status.published, status.pending) == (1, 1, 0)
        assert len(status.worker_pids) == 1
        assert 2**20 < status.worker_memory < 2**31
        assert status.worker_cpu > 0
        assert 0 < status.copy_seconds <= status.hook_seconds <= status.wall_seconds
        assert status.staleness == {"frozen": 0, "moving": 0}
    said = [record.getMessage() for record in caplog.records if record.name == "ww_callbacks"]
    lines = [line for line in said if not line.startswith("waiting at most")]  # on a busy machine
    assert len(lines) == 1
    assert lines[0].startswith(
        "1 of 1 snapshots analysed, 0 skipped, 0 over budget, 0 results failed; training waited "
    )


def test_every_snapshot_is_published_skipped_or_pending():
    model = two()
    with ww.Monitor(model, every_n_steps=1) as monitor:
        for step in range(1, 60):
            model["frozen"][0, 0] = step
            monitor.step(step)
            status = monitor.status()
            assert status.snapshots == status.published + status.pending
            assert status.snapshots + status.skipped == step + 1
    assert monitor.history.steps == sorted(set(monitor.history.steps))


def test_waiting_is_over_in_time_with_and_without_a_word():
    done, never = Future(), Future()
    done.set_result(1)
    for what in ("", "the results"):
        assert wait_for([done], 5.0, what=what)
        assert not wait_for([done, never], 0.05, what=what)
        assert not wait_for([done, never], -1.0, what=what)
        assert wait_for([], 0.0, what=what)


def test_a_wait_is_said_once_after_a_second(caplog, monkeypatch):
    monkeypatch.setattr("ww_callbacks.engine.drain.SILENT", 0.02)
    futures = [Future(), Future()]
    assert not wait_for(futures, 0.01, what="the results")
    assert not wait_for(futures, 0.1)
    assert not caplog.text
    assert not wait_for(futures, 0.1, what="the results of step 7")
    assert [record.getMessage() for record in caplog.records] == ["waiting at most 0 s for the results of step 7"]
