"""Findings of a monitored run: told once each, by every output, and not again after a resume."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

import ww_callbacks as ww

pytestmark = pytest.mark.timeout(120)


def model():
    rng = np.random.default_rng(0)
    return {name: 0.1 * rng.standard_normal((60, 50)) for name in ("a", "b")}


def monitor(weights, **options):
    return ww.Monitor(weights, every_n_steps=10, executor="sync", figures=False, **options)


def train(watched, weights, steps, broken=()):
    """Layer b does not change, and layer a is NaN at the broken steps."""
    kept, rng = weights["a"].copy(), np.random.default_rng(steps[0])
    for step in steps:
        kept += 0.01 * rng.standard_normal(kept.shape)
        weights["a"][:] = np.nan if step in broken else kept
        watched.step(step)
    weights["a"][:] = kept


def test_each_finding_is_told_once_when_it_is_raised_and_once_when_it_is_withdrawn(caplog):
    told, weights = [], model()
    with caplog.at_level(logging.INFO, "ww_callbacks"), monitor(weights, on_finding=told.append) as watched:
        train(watched, weights, range(1, 61), broken=range(25, 45))
    assert [(each.kind, each.layers, each.since, each.until) for each in told] == [
        ("frozen", ("b",), 0, None),
        ("non_finite", ("a",), 30, None),
        ("non_finite", ("a",), 30, 50),
    ]
    (alarm,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert alarm.getMessage().startswith("step 30: a holds NaN or infinite weights since step 30.")
    assert watched.history.findings == (told[0].__class__.from_dict(told[0].to_dict() | {"step": 60}),)
    assert not [key for key in watched.metrics if "finding" in key]  # frameworks expect the same keys in every epoch


def test_a_resumed_run_tells_nothing_again(caplog):
    told, weights = [], model()
    with monitor(weights) as first:
        train(first, weights, range(1, 31), broken=(30,))
        state = json.loads(json.dumps(first.state_dict()))
    second = monitor(weights, on_finding=told.append)
    second.load_state_dict(state)
    caplog.clear()
    with second:
        train(second, weights, range(31, 51), broken=(40,))
    assert [(each.kind, each.since, each.until) for each in told] == [("non_finite", 30, 50)]
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_an_on_finding_that_raises_is_named_once_and_monitoring_goes_on():
    def fail(finding):
        raise RuntimeError("the disk is full")

    weights = model()
    said = pytest.warns(RuntimeWarning, match="on_finding is disabled: RuntimeError: the disk is full")
    with said as caught, monitor(weights, on_finding=fail) as watched:
        train(watched, weights, range(1, 31))
        assert not watched.closed
    assert len(caught) == 1
    with (
        pytest.raises(RuntimeError, match="the disk is full"),
        monitor(weights, on_finding=fail, on_error="raise") as own,
    ):
        train(own, weights, range(1, 31))


def test_the_files_hold_what_was_told(tmp_path):
    told, weights = [], model()
    with monitor(weights, on_finding=told.append, log_dir=tmp_path, jsonl=True) as watched:
        train(watched, weights, range(1, 61), broken=range(25, 45))
    lines = [json.loads(line) for line in (tmp_path / "ww_history.jsonl").read_text().splitlines()]
    assert [ww.Finding.from_dict(line["finding"]) for line in lines if "finding" in line] == told
    history = ww.read_jsonl(tmp_path / "ww_history.jsonl")
    assert history.steps == watched.history.steps
    assert history.findings == watched.history.findings

    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "ww"), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    numbers = [(event.step, event.value) for event in events.Scalars("ww/finding/non_finite")]
    assert numbers == [(30, 1.0), (40, 1.0), (50, 0.0), (60, 0.0)]
    texts = {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors("ww/findings")}
    assert list(texts) == [10, 30, 50]
    assert texts[30].startswith("- **Alarm:** a holds NaN or infinite weights since step 30.")
    assert texts[50].startswith("- No longer so at step 50: a holds NaN")


def test_an_output_of_the_user_gets_findings_too():
    class Collector:
        def __init__(self):
            self.found, self.metrics = [], []

        def write(self, report, metrics, wall_time):
            self.metrics.append({key: value for key, value in metrics.items() if "finding" in key})

        def write_finding(self, finding, wall_time):
            self.found.append((finding.kind, wall_time > 0))

        def close(self):
            pass

    weights, collector = model(), Collector()
    with monitor(weights, outputs=[collector]) as watched:
        train(watched, weights, range(1, 11))
    assert collector.found == [("frozen", True)]
    assert collector.metrics == [{}, {"ww/finding/frozen": 1.0}]


def test_layers_that_take_turns_within_a_budget_are_still_told_of():
    told, rng = [], np.random.default_rng(0)
    weights = {f"l{index}": 0.1 * rng.standard_normal((200, 150)) for index in range(6)}
    options = {"executor": "thread", "deterministic": True, "budget": 0.5, "figures": False}
    with ww.Monitor(weights, every_n_steps=1, on_finding=told.append, **options) as watched:
        for step in range(1, 25):
            for index in range(5):
                weights[f"l{index}"] += 0.001 * rng.standard_normal((200, 150))
            watched.step(step)
    assert all(each.layers == ("l5",) for each in told if each.kind == "frozen")
    assert len([each for each in told if each.kind == "frozen"]) <= 1
