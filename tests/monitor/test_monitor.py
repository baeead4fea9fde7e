import gc
import logging
import math
import os
import re
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from delayed import Delayed
from processes import eventually, no_worker_left, workers
from torch import nn

import ww_callbacks as ww

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]


def memory_files():
    links = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.add((entry.name, os.readlink(entry)))
        except FileNotFoundError:
            continue
    return {link for link in links if "memfd:ww_callbacks" in link[1]}


@pytest.fixture(autouse=True)
def nothing_survives():
    files = memory_files()
    with no_worker_left():
        yield
    gc.collect()
    assert memory_files() <= files, "memory is left"


def weights(**more):
    return {"fc": np.random.default_rng(0).standard_normal((80, 60))} | more


def watch(model, steps, **arguments):
    """Run a loop over the given steps, analysed in a thread unless a test is about the worker process."""
    defaults = {"every_n_steps": 10, "deterministic": True, "executor": "thread"}
    return train(ww.Monitor(model, **defaults | arguments), steps)


def train(monitor, steps):
    with monitor:
        for step in steps:
            monitor.step(step)
    return monitor


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "steps", "snapshots"),
    [
        (10, range(1, 31), [0, 10, 20, 30]),
        (10, range(1, 26), [0, 10, 20, 25]),
        (10, [], [0]),
        (10, [3], [0, 3]),
        (10, [7, 14, 21, 28], [0, 14, 21, 28]),
        (10, [9, 9, 10, 10, 10, 11], [0, 10, 11]),
        (10, [35, 36], [0, 35, 36]),
        (1, [1, 2, 3], [0, 1, 2, 3]),
        (None, range(1, 8), [0, 7]),
    ],
)
def test_snapshots_at_the_start_at_each_multiple_reached_or_passed_and_at_the_end(every, steps, snapshots):
    assert watch(weights(), steps, every_n_steps=every).history.steps == snapshots


def test_a_run_that_goes_on_begins_at_its_step_with_or_without_a_baseline():
    for baseline, expected in ((True, [103, 110, 112]), (False, [110, 112])):
        monitor = ww.Monitor(weights(), every_n_steps=10, deterministic=True, executor="thread")
        monitor.start(103, baseline=baseline)
        for step in range(104, 113):
            monitor.step(step)
        monitor.finish()
        assert monitor.history.steps == expected


def test_without_a_with_block_the_first_step_starts_and_finish_ends():
    monitor = ww.Monitor(weights(), every_n_steps=2, deterministic=True, executor="thread")
    for step in range(1, 5):
        monitor.step(step)
    monitor.finish(6)
    assert monitor.history.steps == [1, 2, 4, 6]


def test_a_snapshot_on_request_is_taken_once_per_step():
    with ww.Monitor(weights(), every_n_steps=None, deterministic=True, executor="thread") as monitor:
        monitor.step(3)
        for _ in range(3):
            monitor.snapshot(3)
        monitor.step(5)
        monitor.snapshot(4)  # the past is over
    assert monitor.history.steps[:2] == [0, 3]
    assert monitor.history.steps[-1] >= 4


def test_each_report_is_of_the_weights_at_its_step():
    model = weights()
    with ww.Monitor(model, every_n_steps=1, deterministic=True) as monitor:
        for step in range(1, 4):
            model["fc"] *= 2.0
            monitor.step(step)
    norms = monitor.history.series("norm", "fc")
    assert norms == pytest.approx([norms[0] * 4**step for step in range(4)])
    assert [report["fc"].step for report in monitor.history] == [0, 1, 2, 3]
    expected = ww.analyze(model)["fc"]
    assert monitor.history[-1]["fc"].alpha == expected.alpha


@pytest.mark.parametrize("kind", [np.int64, np.int32, torch.tensor], ids=["int64", "int32", "tensor"])
def test_steps_that_are_whole_numbers_of_numpy_or_torch_are_steps(kind):
    monitor = watch(weights(), [kind(10), kind(20)], timeout=8.0)
    assert monitor.history.steps == [0, 10, 20]


def test_two_runs_that_wait_have_identical_histories():
    def run():
        model = weights(conv=np.random.default_rng(1).standard_normal((30, 20, 2, 2)))
        with ww.Monitor(model, every_n_steps=3, deterministic=True) as monitor:
            known = []
            for step in range(1, 11):
                model["fc"] += 0.01 * step
                monitor.step(step)
                known.append((monitor.metrics, len(monitor.history)) if step % 3 == 0 else monitor.metrics)
        return list(monitor.history), known

    assert run() == run()


# --- when it is busy -------------------------------------------------------------------------------------------------


def stopped_worker():
    """Stop the worker at its start, so that it is busy for as long as the test wants."""
    assert eventually(workers, 10.0)
    (pid,) = workers()
    worker = psutil.Process(pid)
    worker.suspend()
    return worker


def test_a_snapshot_that_finds_no_free_slot_is_skipped_and_counted(monkeypatch):
    monkeypatch.setattr("ww_callbacks.engine.resources.SMALL_BYTES", 0)
    model = {"fc": np.random.default_rng(0).standard_normal((400, 300))}
    with ww.Monitor(model, every_n_steps=1) as monitor:
        worker = stopped_worker()
        for step in range(1, 6):
            monitor.step(step)
        assert (monitor.skipped, len(monitor.history)) == (4, 0)
        worker.resume()
        assert monitor.wait_for_first()
    assert monitor.history.steps[:2] == [0, 1]
    assert monitor.history.steps[-1] == 5  # the last snapshot waits for its place
    assert monitor.metrics["ww/skipped"] == 3.0  # step 5 was made up for


@pytest.mark.parametrize(("waits", "niceness"), [(True, "0"), (False, "19")])
def test_a_worker_that_training_waits_for_has_the_priority_of_training(waits, niceness):
    monitor = ww.Monitor(weights(), every_n_steps=1)
    monitor.attach("stop", ww.EarlyStopping(), acts=waits)
    monitor.start()
    assert eventually(workers, 10.0)
    (pid,) = workers()
    command = psutil.Process(pid).cmdline()
    assert command[command.index("--niceness") + 1] == niceness
    monitor.close()


def test_a_worker_that_hangs_makes_training_wait_once():
    monitor = ww.Monitor(weights(), every_n_steps=1, timeout=0.5)
    monitor.attach("stop", ww.EarlyStopping())
    monitor.start()
    worker = stopped_worker()
    start = time.monotonic()
    with pytest.warns(RuntimeWarning, match=r"took longer than timeout=0\.5 s; training does not wait") as caught:
        [monitor.step(step) for step in range(1, 20)]
    assert 0.5 <= time.monotonic() - start < 5
    assert len(caught) == 1
    assert not monitor.waits
    worker.resume()
    monitor.close()


def test_results_that_never_come_end_with_a_warning_and_no_process():
    monitor = ww.Monitor(weights(), every_n_steps=1, timeout=0.3)
    monitor.start()
    worker = stopped_worker()
    monitor.step(1)
    with pytest.warns(RuntimeWarning, match="not analysed within 0.3 s"):
        monitor.finish()
    assert not worker.is_running()
    assert monitor.history.steps == []


# --- what is published -----------------------------------------------------------------------------------------------


def test_metrics_change_at_snapshot_steps_and_at_the_end_only():
    model = weights()
    monitor = ww.Monitor(model, every_n_steps=5, deterministic=True, executor="thread")
    monitor.start()
    seen = [monitor.metrics]
    for step in range(1, 12):
        monitor.step(step)
        assert eventually(lambda: all(each.done() for each in monitor._engine.futures(1)), 20.0)
        seen.append(monitor.metrics)
    changed = [step for step in range(1, 12) if seen[step] is not seen[step - 1]]
    assert changed == [5, 10]
    assert seen[0] == {}
    monitor.finish()
    assert monitor.metrics is not seen[-1]
    assert monitor.metrics["ww/alpha"] == monitor.history[-1].summary()["alpha"]
    assert seen[5]["ww/alpha"] == monitor.history[0].summary()["alpha"]


def test_on_result_gets_each_report_in_order_from_the_training_thread():
    import threading

    calls = []
    monitor = watch(
        weights(), range(1, 31), on_result=lambda report: calls.append((report, threading.current_thread()))
    )
    seen = [report for report, _ in calls]
    assert all(layer.histogram is not None for report in seen for layer in report)
    assert [*(report.without_spectra() for report in seen[:-1]), seen[-1]] == list(monitor.history)
    assert {thread for _, thread in calls} == {threading.main_thread()}


def test_log_dir_and_jsonl_hold_what_the_history_holds(tmp_path):
    accumulator_module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monitor = watch(weights(), range(1, 26), log_dir=tmp_path, jsonl=True, figures=False)
    assert list(ww.read_jsonl(tmp_path / "ww_history.jsonl")) == list(monitor.history)
    accumulator = accumulator_module.EventAccumulator(str(tmp_path / "ww"))
    accumulator.Reload()
    for tag, series in {
        "ww/alpha": monitor.history.series("alpha"),
        "ww_layer/alpha/000.fc": monitor.history.series("alpha", "fc"),
        "ww_layer/stable_rank/000.fc": monitor.history.series("stable_rank", "fc"),
    }.items():
        points = accumulator.Scalars(tag)
        assert [point.step for point in points] == monitor.history.steps == [0, 10, 20, 25]
        assert [point.value for point in points] == pytest.approx(series, rel=1e-6)


def test_jsonl_takes_a_path_of_its_own(tmp_path):
    monitor = watch(weights(), [1], jsonl=tmp_path / "deep" / "h.jsonl")
    assert list(ww.read_jsonl(tmp_path / "deep" / "h.jsonl")) == list(monitor.history)


def test_jsonl_true_needs_a_log_dir():
    with pytest.raises(ValueError, match=r"^jsonl: .*log_dir"):
        ww.Monitor(weights(), jsonl=True)


class Recorder:
    def __init__(self, fail_at=None, fail_on_close=False):
        self.metrics, self.closed, self.fail_at, self.fail_on_close = [], 0, fail_at, fail_on_close

    def write(self, report, metrics, wall_time):
        if report.step == self.fail_at:
            raise OSError("disk full")
        self.metrics.append((report.step, dict(metrics)))

    def close(self):
        self.closed += 1
        if self.fail_on_close:
            raise OSError("cannot close")


def logged(monitor_model, **arguments):
    recorder = Recorder()
    watch(monitor_model, [1], outputs=[recorder], **arguments)
    assert recorder.closed == 1
    keys = {key for _, metrics in recorder.metrics for key in metrics if key.startswith("ww_layer/alpha/")}
    return {key.split("/")[-1].split(".", 1)[1] for key in keys}


def many(count):
    rng = np.random.default_rng(0)
    return {f"fc{i}": rng.standard_normal((24, 20)) for i in range(count)}


@pytest.mark.parametrize(
    ("choice", "count"),
    [(True, 70), (False, 0), ("auto", 16), (["fc1*"], 11), (["!fc1*"], 59), (["fc0", "fc69"], 2)],
    ids=str,
)
def test_log_every_layer_chooses_the_layers_with_metrics_of_their_own(choice, count):
    assert len(logged(many(70), log_every_layer=choice)) == count


def test_auto_takes_first_and_last_layer_and_keeps_its_choice():
    recorder = Recorder()
    watch(many(70), range(1, 21), outputs=[recorder])
    keys = [{key for key in metrics if key.startswith("ww_layer/alpha/")} for _, metrics in recorder.metrics]
    assert len(keys) == 3
    assert keys[0] == keys[1] == keys[2]
    assert {"ww_layer/alpha/000.fc0", "ww_layer/alpha/069.fc69"} <= keys[0]


def test_metrics_are_finite_floats_and_lag_is_in_steps():
    recorder = Recorder()
    watch(weights(bad=np.full((60, 60), np.inf)), range(1, 21), outputs=[recorder])
    for _, metrics in recorder.metrics:
        assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
        assert metrics["ww/failed"] == 1.0
    assert [metrics["ww/lag_steps"] for _, metrics in recorder.metrics][-1] == 0.0


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_an_output_that_raises_is_dropped_with_one_warning_and_all_else_goes_on():
    bad, good = Recorder(fail_at=10), Recorder()
    with pytest.warns(RuntimeWarning, match="Recorder.*disk full") as caught:
        monitor = watch(weights(), range(1, 41), outputs=[bad, good])
    assert len([warning for warning in caught if warning.category is RuntimeWarning]) == 1
    assert [step for step, _ in bad.metrics] == [0]
    assert [step for step, _ in good.metrics] == monitor.history.steps == [0, 10, 20, 30, 40]
    assert good.closed == 1


def test_an_output_that_cannot_be_closed_does_not_keep_the_others_open():
    outputs = [Recorder(fail_on_close=True), Recorder(), Recorder(fail_on_close=True), Recorder()]
    with pytest.warns(RuntimeWarning, match="cannot close"):
        watch(weights(), [], outputs=outputs)
    assert [output.closed for output in outputs] == [1, 1, 1, 1]


def test_an_output_that_was_dropped_is_closed():
    bad = Recorder(fail_at=0)
    with pytest.warns(RuntimeWarning, match="disk full"):
        watch(weights(), [1], outputs=[bad])
    assert bad.closed == 1


def test_an_on_result_that_raises_is_named_once_and_monitoring_goes_on():
    def broken(report):
        calls.append(report.step)
        raise KeyError("mine")

    calls, recorder = [], Recorder()
    with pytest.warns(RuntimeWarning, match="^ww_callbacks: on_result is disabled: KeyError: 'mine'$") as caught:
        monitor = watch(weights(), range(1, 41), on_result=broken, outputs=[recorder])
    assert len(caught) == 1
    assert calls == [0]
    assert monitor.history.steps == [0, 10, 20, 30, 40]
    assert [step for step, _ in recorder.metrics] == monitor.history.steps
    with pytest.raises(KeyError, match="mine"):
        watch(weights(), [1], on_result=broken, on_error="raise")


class Broken:
    def judge(self, history):
        raise KeyError("mine")


class Mute:
    def judge(self, history):
        return None


@pytest.mark.parametrize(("signal", "why"), [(Broken(), "KeyError: 'mine'"), (Mute(), "TypeError: .*returned None")])
def test_a_signal_that_raises_or_judges_nothing_is_named_once_and_never_stops(signal, why):
    monitor = ww.Monitor(weights(), every_n_steps=1, deterministic=True, executor="thread")
    monitor.attach("stop", signal)
    with pytest.warns(RuntimeWarning, match=f"signal 'stop' is disabled: {why}") as caught:
        train(monitor, range(1, 5))
    assert len(caught) == 1
    assert monitor.history.steps == [0, 1, 2, 3, 4]
    assert not monitor.should_stop


def test_each_run_says_what_fails():
    """Python shows the same text of the same line once. A second run must not be silent for that."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            watch(weights(), [], outputs=[Recorder(fail_at=0)])
    assert len(caught) == 2


@pytest.mark.parametrize(
    ("name", "signal", "message"),
    [
        ("stop", 3, "signal: expected an object with judge.history., got 3"),
        ("stop", ww.EarlyStopping, r"got the class EarlyStopping: create one, EarlyStopping\(\)"),
        (ww.EarlyStopping(), "stop", "name: expected a string, got EarlyStopping"),
    ],
)
def test_what_is_no_signal_is_refused_at_once(name, signal, message):
    with pytest.raises(TypeError, match=message):
        ww.Monitor(weights()).attach(name, signal)


def test_steps_that_begin_anew_in_each_epoch_are_said_once():
    monitor = ww.Monitor(weights(), every_n_steps=2, deterministic=True, executor="thread")
    with pytest.warns(RuntimeWarning, match="step: went back from 5 to 1; there is no snapshot until .* 4") as caught:
        train(monitor, [1, 2, 3, 4, 5] * 3)
    assert len(caught) == 1


@pytest.mark.parametrize("step", [None, "a"])
@pytest.mark.parametrize("method", ["start", "step", "snapshot", "finish"])
def test_a_step_that_is_no_number_is_named(method, step):
    monitor = ww.Monitor(weights())
    if step is None and method in ("start", "finish"):
        return
    with pytest.raises(TypeError, match="step: expected the number of finished optimizer steps, got"):
        getattr(monitor, method)(step)


def test_close_says_which_results_are_dropped_and_finish_drops_none(caplog):
    with Delayed(0.3) as executor:
        monitor = ww.Monitor(weights(), every_n_steps=10, executor=executor)
        monitor.start()
        monitor.step(10)
        monitor.close()
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == "monitoring was closed: the results of steps 0 and 10 are dropped (finish() waits for them)"
    assert len(monitor.history) == 0
    caplog.clear()
    watch(weights(), [10]).close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_monitor_that_is_forgotten_says_which_results_are_lost(caplog):
    with Delayed(0.3) as executor:
        monitor = ww.Monitor(weights(), executor=executor)
        monitor.start()
        del monitor
        gc.collect()
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == "neither finish() nor close() was called: the results of step 0 are dropped"


def test_the_first_result_is_asked_for_too_early():
    monitor = ww.Monitor(weights())
    with pytest.raises(IndexError, match=r"no result has come in yet: .*wait_for_first\(\).*finish\(\)"):
        monitor.history[-1]
    assert str(monitor.history) == "History of 0 reports"
    monitor.close()


def test_on_error_raise_hands_the_error_to_the_training_and_leaves_nothing():
    monitor = ww.Monitor(
        weights(), every_n_steps=1, deterministic=True, outputs=[Recorder(fail_at=0)], on_error="raise"
    )
    monitor.start()
    with pytest.raises(OSError, match="disk full"):  # noqa: PT012
        for step in range(1, 4):
            monitor.step(step)
    assert workers() == set()


def test_an_exception_in_the_body_passes_and_ends_the_worker_at_once():
    recorder = Recorder()
    monitor = ww.Monitor(weights(), every_n_steps=1, deterministic=True, outputs=[recorder])
    with pytest.raises(ZeroDivisionError), monitor:  # noqa: PT012
        monitor.step(1)
        assert workers()
        raise ZeroDivisionError
    assert workers() == set()
    assert recorder.closed == 1


def test_after_the_end_every_call_is_harmless():
    monitor = watch(weights(), [1], executor="process")
    before = list(monitor.history)
    monitor.step(100)
    monitor.snapshot(101)
    monitor.finish(102)
    monitor.close()
    monitor.wait_for_first()
    assert list(monitor.history) == before
    assert workers() == set()


def test_a_layer_with_nan_fails_the_others_are_analysed_and_the_summary_is_finite():
    model = weights(other=np.random.default_rng(1).standard_normal((70, 60)))
    with ww.Monitor(model, every_n_steps=1, deterministic=True, executor="thread") as monitor:
        model["fc"][3, 3] = np.nan
        monitor.step(1)
        model["fc"][3, 3] = 0.0
        monitor.step(2)
    assert [report["fc"].status for report in monitor.history] == ["ok", "failed", "ok"]
    assert [report["other"].status for report in monitor.history] == ["ok"] * 3
    assert monitor.history[1]["fc"].reason == "non-finite weights"
    assert monitor.history.series("failed") == [0.0, 1.0, 0.0]
    assert all(math.isfinite(value) for report in monitor.history for value in report.summary().values())


def test_a_model_without_anything_to_analyse_is_told_once_with_layers_and_reasons():
    model = nn.Sequential(nn.LayerNorm(4), nn.Bilinear(3, 4, 5))
    with pytest.warns(RuntimeWarning, match="nothing to analyse") as caught:
        monitor = watch(model, range(1, 31))
    assert len([warning for warning in caught if warning.category is RuntimeWarning]) == 1
    message = str(caught[0].message)
    assert "0: no matrix" in message
    assert "1: no matrix: a bilinear form per output" in message
    assert len(monitor.history) == 0
    assert workers() == set()


def test_a_model_without_layers_is_told():
    with pytest.warns(RuntimeWarning, match="no layer holds weights"):
        watch({}, [1])


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"layers": ["fd*"]}, ValueError, r"layers: 'fd\*' matches no layer; the layers are \['fc'\]"),
        ({"log_every_layer": ["fd"]}, ValueError, "log_every_layer: 'fd' matches no layer"),
        ({"every_n_steps": 0}, ValueError, "every_n_steps: expected at least 1, got 0"),
        ({"workers": 0}, ValueError, "workers"),
        ({"log_dir": 3}, TypeError, "log_dir"),
        ({"jsonl": 3}, TypeError, "jsonl"),
        ({"conv_scale": "x"}, ValueError, "conv_scale"),
        ({"deterministic": "x"}, TypeError, "deterministic"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_wrong_arguments_are_refused_at_construction_by_name(arguments, kind, message):
    with pytest.raises(kind, match="^" + message):
        ww.Monitor(weights(), **arguments)


def test_a_model_of_no_known_kind_is_refused_at_construction():
    with pytest.raises(TypeError, match=r"^model: expected .*list"):
        ww.Monitor([nn.Linear(3, 4)])


def test_without_limits_of_time_everything_works_as_well():
    monitor = watch(weights(), [10], timeout=math.inf, executor="process")
    assert monitor.history.steps == [0, 10]


def test_a_worker_that_cannot_be_started_ends_the_monitoring_with_one_warning(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no numpy here >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.warns(RuntimeWarning, match="monitoring has ended, training continues.*no numpy here") as caught:
        watch(weights(), range(1, 101), executor="process")
    assert len([warning for warning in caught if warning.category is RuntimeWarning]) == 1


def test_a_worker_that_is_killed_costs_a_layer_and_not_the_run():
    with ww.Monitor(weights(), every_n_steps=1, deterministic=True) as monitor:
        assert monitor.wait_for_first()
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
        for step in range(1, 4):
            monitor.step(step)
    assert monitor.history.steps == [0, 1, 2, 3]
    assert monitor.history[-1]["fc"].status == "ok"
    assert [report["fc"].status for report in monitor.history].count("failed") <= 1


# --- models that change ----------------------------------------------------------------------------------------------


def test_layers_that_get_their_weights_later_are_analysed_from_then_on():
    model = nn.Sequential(nn.Linear(60, 80), nn.LazyLinear(70))
    with ww.Monitor(model, every_n_steps=1, deterministic=True, executor="thread", layers=["1", "0"]) as monitor:
        model(torch.ones(2, 60))
        monitor.step(1)
    assert [report["1"].status for report in monitor.history] == ["skipped", "ok"]
    assert "not initialised yet" in monitor.history[0]["1"].reason
    assert [report["0"].status for report in monitor.history] == ["ok", "ok"]


def test_weights_that_are_replaced_grow_or_change_their_precision_are_followed():
    model = nn.Sequential(nn.Linear(60, 80))
    with ww.Monitor(model, every_n_steps=1, deterministic=True) as monitor:
        model[0].weight = nn.Parameter(torch.full((80, 60), 2.0))
        monitor.step(1)
        model.to(torch.bfloat16)
        monitor.step(2)
        model[0] = nn.Linear(70, 90)
        monitor.step(3)
    reports = [report["0"] for report in monitor.history]
    assert [(report.N, report.M) for report in reports] == [(80, 60)] * 3 + [(90, 70)]
    assert reports[1].norm == reports[2].norm == pytest.approx(4 * 80 * 60)
    assert reports[0].status == reports[3].status == "ok"


def test_the_model_and_the_random_state_are_only_read():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 80), nn.utils.parametrizations.spectral_norm(nn.Linear(60, 60)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    watch(model, range(1, 21))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_two_monitors_in_one_process_do_not_meet():
    first_model, second_model = weights(), {"head": np.random.default_rng(1).standard_normal((60, 70))}
    with (
        ww.Monitor(first_model, every_n_steps=1, deterministic=True) as first,
        ww.Monitor(second_model, every_n_steps=2, deterministic=True) as second,
    ):
        for step in range(1, 4):
            first.step(step)
            second.step(step)
        assert len(workers()) == 2
    assert first.history.steps == [0, 1, 2, 3]
    assert second.history.steps == [0, 2, 3]
    assert first.history[0]["fc"].alpha == ww.analyze(first_model)["fc"].alpha
    assert second.history[0]["head"].alpha == ww.analyze(second_model)["head"].alpha


def test_a_monitor_that_is_dropped_unclosed_leaves_no_process():
    monitor = ww.Monitor(weights(), every_n_steps=1, deterministic=True)
    monitor.start()
    monitor.step(1)
    assert workers()
    del monitor
    gc.collect()  # what is left is for the fixture to see


def test_a_good_run_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor = watch(weights(), range(1, 12), executor="process")
        gc.collect()
    assert re.search("3 reports", repr(monitor.history))


def test_a_first_result_that_came_in_between_snapshot_steps_is_published_when_it_is_waited_for():
    weights = {"fc": np.random.default_rng(0).standard_normal((60, 50))}
    with ww.Monitor(weights, every_n_steps=1000, executor="thread") as monitor:
        for step in range(1, 1000):
            monitor.step(step)
            if len(monitor.history):
                break
            time.sleep(0.01)
        assert not monitor.metrics
        assert monitor.wait_for_first()
        assert "ww/alpha" in monitor.metrics
