"""Training waits for results where it acts on them, says how long, and says which snapshots it has not waited for."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest
from delayed import Delayed

import ww_callbacks as ww
from ww_callbacks.engine import Missed
from ww_callbacks.monitor import waiting
from ww_callbacks.signals.learning_rate import LayerRatios
from ww_callbacks.signals.signal import Judgement

pytestmark = pytest.mark.timeout(120)


def weights():
    return {"fc": np.random.default_rng(0).standard_normal((60, 60))}


def run(monitor, steps, asks=False):
    with monitor:
        for step in range(1, steps + 1):
            monitor.model["fc"] += 0.01
            monitor.step(step)
            if asks:
                assert not monitor.should_stop
    return monitor


@pytest.mark.parametrize(
    ("name", "signal", "acts", "waits"),
    [
        ("stop", ww.EarlyStopping(), None, True),
        ("stop", ww.EarlyStopping(), False, False),
        ("lr_ratio", LayerRatios(), None, False),
        ("lr_ratio", LayerRatios(), True, True),
    ],
)
def test_a_signal_that_acts_makes_training_wait_and_deterministic_has_the_last_word(name, signal, acts, waits):
    for deterministic, expected in ((None, waits), (True, True), (False, False)):
        monitor = ww.Monitor(weights(), deterministic=deterministic)
        assert monitor.waits is (deterministic is True)
        monitor.attach(name, signal, acts=acts)
        assert monitor.waits is expected


def test_acts_is_checked():
    with pytest.raises(TypeError, match="acts: expected True, False or None, got 'yes'"):
        ww.Monitor(weights()).attach("stop", ww.EarlyStopping(), acts="yes")


def test_reading_should_stop_changes_nothing():
    monitor = ww.Monitor(weights(), every_n_steps=1, executor="sync")
    run(monitor, 8, asks=True)
    assert not monitor.waits


def test_a_run_that_waits_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(waiting, "WAITED_LEAST", 0.2)
    with Delayed(0.05) as executor:
        monitor = ww.Monitor(weights(), every_n_steps=1, executor=executor)
        monitor.attach("stop", ww.EarlyStopping())
        run(monitor, 12)
        run(ww.Monitor(weights(), every_n_steps=1, executor=executor, deterministic=True), 12)  # was asked for
    (message,) = [record.message for record in caplog.records]
    assert re.search(r"has waited \d+ s \(\d+ %\) for analyses.* raise every_n_steps.* deterministic=False", message)
    assert re.search(r"and (?!0 s)[\d.]+ s for results; the analysis", str(monitor.status()))


@pytest.fixture
def two_slots(monkeypatch):
    """No memory beyond that of two copies."""
    monkeypatch.setattr("ww_callbacks.engine.resources.SMALL_BYTES", 0)


def test_many_missed_snapshots_are_said_once_and_at_the_end(two_slots, caplog):
    with Delayed(0.3) as executor, caplog.at_level(logging.WARNING, "ww_callbacks"):
        monitor = run(ww.Monitor(weights(), every_n_steps=1, executor=executor), 20)
    first, last = [record.message for record in caplog.records]
    assert first.startswith("step 6: 5 of 7 snapshots have no results: 5 because too many others were pending (raise")
    count = monitor.skipped
    assert last.startswith(f"{count} of {count + len(monitor.history)} snapshots have no results: {count} because too")


def test_a_few_missed_snapshots_are_said_at_the_end_for_those_who_ask(two_slots, caplog):
    with Delayed(0.3) as executor, caplog.at_level(logging.INFO, "ww_callbacks"):
        run(ww.Monitor(weights(), every_n_steps=1, executor=executor), 4)
    (said,) = [record for record in caplog.records if "have no results" in record.message]
    assert said.levelno == logging.INFO


def test_snapshots_over_the_budget_are_said_too(caplog):
    missed = Missed(skipped=3, over_budget=4)
    assert missed.message(7) == (
        "7 of 14 snapshots have no results: 3 because too many others were pending (raise every_n_steps, analyse fewer "
        "layers with layers=, leave the analysis a core, or let training wait with deterministic=True), 4 because the "
        "budget was used up (raise budget= or every_n_steps)"
    )
    with caplog.at_level(logging.WARNING, "ww_callbacks"):
        run(ww.Monitor(weights(), every_n_steps=1, budget=1e-9, deterministic=True, executor="thread"), 20)
    assert "because the budget was used up" in caplog.records[-1].message


@pytest.mark.parametrize(("patience", "said"), [(3, "traps at step 3 (stopped at 4): fc has"), (9, "did not end this")])
def test_the_end_says_what_the_rules_say_if_the_loop_has_asked(caplog, patience, said):
    for asks in (True, False):
        caplog.clear()
        monitor = ww.Monitor(weights(), every_n_steps=1, executor="thread")
        monitor.attach("stop", ww.EarlyStopping(rules=["traps"], patience=patience))
        with caplog.at_level(logging.INFO, "ww_callbacks"), monitor:
            for step in range(1, 5):
                monitor.model["fc"] += 0.01
                monitor.model["fc"][3, 4] = 100.0
                monitor.step(step)
                if asks and monitor.should_stop:
                    assert step == 4
        assert sum(said in record.message for record in caplog.records) == asks


def test_the_end_says_nothing_about_a_stop_signal_of_the_users_own(caplog):
    class Never:
        def judge(self, history):
            return Judgement(verdict={"stop": False})

    monitor = ww.Monitor(weights(), every_n_steps=1, executor="sync")
    monitor.attach("stop", Never())
    with caplog.at_level(logging.INFO, "ww_callbacks"):
        run(monitor, 2, asks=True)
    assert not any("EarlyStopping" in record.message for record in caplog.records)


def test_the_end_says_how_near_the_default_rules_were(caplog):
    with caplog.at_level(logging.INFO, "ww_callbacks"):
        run(ww.Monitor(weights(), every_n_steps=1, executor="sync"), 2, asks=True)
    assert "EarlyStopping did not end this training. plateau 0, traps 0" in [r.message for r in caplog.records]


def test_leaving_says_once_for_each_wait_what_it_waits_for_the_limit_and_how_to_shorten_it(caplog, monkeypatch):
    monkeypatch.setattr("ww_callbacks.engine.drain.SILENT", 0.05)
    with Delayed(0.3) as late, ww.Monitor(weights(), every_n_steps=10, executor=late, timeout=60) as monitor:
        monitor.step(1)
    assert monitor.history.steps == [0, 1]
    said = [line for line in caplog.messages if line.startswith("waiting")]
    assert [re.sub(r"\d\d s", "59 s", line) for line in said] == [
        "waiting at most 59 s for the results of step 0 "
        "(timeout= sets the limit; layers= and randomize=False shorten it)",
        "waiting at most 59 s for the results of step 1 "
        "(timeout= sets the limit; layers= and randomize=False shorten it)",
    ]
