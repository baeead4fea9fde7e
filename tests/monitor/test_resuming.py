"""Checkpoints of a monitor in a loop written by hand."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.report import History, LayerReport, Report
from ww_callbacks.report.history import kept_indices


def weights(step: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(step)
    return {"fc": generator.standard_t(3, (90, 60)), "out": generator.standard_normal((60, 4))}


def train(monitor: ww.Monitor, model: dict[str, np.ndarray], first: int, last: int) -> None:
    for step in range(first, last + 1):
        for name, array in weights(step).items():
            model[name][:] = array
        monitor.step(step)


def monitor_of(model: dict[str, np.ndarray], every: int = 5) -> ww.Monitor:
    return ww.Monitor(model, every_n_steps=every, deterministic=True, executor="sync")


def test_a_loop_goes_on_with_history_verdicts_and_recorded_values() -> None:
    whole, model = monitor_of(weights()), weights()
    whole_model = whole.model
    with whole:
        whole.record("val_loss", 0.5, step=3)
        train(whole, whole_model, 1, 20)

    first = monitor_of(model)
    first.attach("stop", ww.EarlyStopping())
    first.start()
    first.record("val_loss", 0.5, step=3)
    train(first, model, 1, 12)
    state = json.loads(json.dumps(first.state_dict()))
    first.close()

    second = monitor_of(model)
    second.load_state_dict(state)
    with second:
        assert second.published == first.published
        assert second.metrics["ww/alpha"] == first.metrics["ww/alpha"]
        train(second, model, 13, 20)
    assert second.history.steps == whole.history.steps == [0, 5, 10, 15, 20]
    assert list(second.history) == list(whole.history)
    assert second.history.recorded("val_loss") == [(3, 0.5)]


def test_a_loop_whose_history_is_thinned_out_counts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ww_callbacks.monitor.publishing.MEMORY_ENTRIES", 40)  # 20 reports of two layers
    model = weights()
    first = monitor_of(model, every=1)
    with first:
        train(first, model, 1, 60)
    assert len(first.history) <= 20
    assert first.status().published == first.published.reports == 61
    second = monitor_of(model, every=1)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.start()
    assert second.lr_ratios() == first.lr_ratios()
    assert second.lr_ratios().keys() == {"fc", "out"}
    train(second, model, 61, 62)
    second.close()
    assert second.status().published == 63
    assert second.history.steps[-3:] == [60, 61, 62]


def test_a_snapshot_that_became_due_in_between_is_taken_at_once() -> None:
    model = weights()
    first = monitor_of(model)
    first.start()
    train(first, model, 1, 4)
    state = first.state_dict()
    first.close()
    second = monitor_of(model)
    second.load_state_dict(state)
    second.start(7)
    second.finish()
    assert second.history.steps == [0, 7]


def test_a_history_of_later_steps_is_left_out_with_a_warning() -> None:
    model = weights()
    with monitor_of(model) as first:
        train(first, model, 1, 12)
    second = monitor_of(model)
    second.load_state_dict(first.state_dict())
    with pytest.warns(RuntimeWarning, match="the checkpoint is of step 12, training starts at step 3"):
        second.start(3)
    second.finish()
    assert second.history.steps == [3]


def test_states_are_loaded_before_the_start() -> None:
    monitor = monitor_of(weights())
    assert monitor.state_dict() == {}
    monitor.load_state_dict({})
    with monitor, pytest.raises(ValueError, match="state: load it before the monitor is started"):
        monitor.load_state_dict({})


def test_torch_loads_a_checkpoint_with_the_state_under_its_strict_rules() -> None:
    torch = pytest.importorskip("torch")
    model = weights()
    with monitor_of(model) as first:
        train(first, model, 1, 12)
    file = io.BytesIO()
    torch.save({"ww": first.state_dict()}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["ww"] == first.state_dict()


def test_the_counted_layers_stay_those_of_the_first_report_even_where_it_is_not_kept() -> None:
    def report(step: int, alphas: dict[str, float]) -> Report:
        layers = (LayerReport(name=n, kind="fc", M=60, num_evals=60, alpha=a) for n, a in alphas.items())
        return Report.of(layers, step)

    history = History([report(0, {"a": 2.0}), *(report(step, {"a": 2.0, "b": 4.0}) for step in range(1, 4000))])
    again = History.from_state_dict(history.state_dict())
    assert len(again) == 2000
    assert (again.steps[0], again.steps[-1]) == (0, 3999)
    again.append(report(5000, {"a": 2.0, "b": 8.0}))
    assert again[-1].summary()["alpha"] == 2.0


@pytest.mark.parametrize("reports", [0, 1, 20, 21, 79, 80, 81, 5000])
def test_kept_reports_are_distinct_and_hold_the_first_and_the_latest(reports: int) -> None:
    kept = kept_indices(reports, entries=4000, layers=50)
    assert kept == sorted(set(kept))
    assert len(kept) == min(reports, 80)
    assert kept[:1] == ([0] if reports else [])
    assert kept[-40:] == list(range(reports))[-40:]
