"""Runs as the page reads them from files, compared with the history that the monitor has."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from recorded import STEPS, TRAP, record
from tensorboard.compat.proto.event_pb2 import Event

import ww_callbacks as ww
from ww_callbacks.outputs.jsonl import JsonlOutput
from ww_callbacks.outputs.tensorboard import TensorBoardOutput, records
from ww_callbacks.outputs.tensorboard import record as framed
from ww_callbacks.outputs.tensorboard_protos import scalar_summary
from ww_callbacks.page.runs import Runs
from ww_callbacks.report import Report


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, record(folder / "a", jsonl=True)


@pytest.fixture
def copied(recorded, tmp_path):
    """The folder again, to be damaged."""
    shutil.copytree(recorded[0], tmp_path / "runs")
    return tmp_path / "runs"


def event_file(folder):
    (path,) = (folder / "a" / "ww").glob("*tfevents*")
    return path


def the_run(folder, identity="a"):
    files = Runs(folder).get(identity)
    assert files.problem == ""
    return files.run


def test_values_are_those_of_the_history(recorded):
    folder, monitor = recorded
    run = the_run(folder)
    answer = run.answer()
    assert answer["steps"] == monitor.history.steps == list(range(0, STEPS + 1, 10))
    assert [layer["name"] for layer in answer["layers"]] == monitor.history[-1].column("name")
    for name in ("alpha", "rand_alpha", "lambda_max", "reliable", "num_traps"):
        expected = [[getattr(layer, name) for layer in report] for report in monitor.history]
        np.testing.assert_allclose(run.column(name), np.array(expected, float), rtol=1e-6)
    assert answer["summary"]["alpha"] == monitor.history.series("alpha")
    words = next(column["words"] for column in answer["columns"] if column["name"] == "warning")
    codes = run.column("warning")
    assert [words[int(code)] for code in codes[-1]] == monitor.history[-1].column("warning")


def test_a_cell_is_the_layer_of_the_report(recorded):
    folder, monitor = recorded
    layer = monitor.history[-1]["h.1.fc"]
    cell = the_run(folder).cell(1, len(monitor.history) - 1)
    assert cell["values"]["alpha"] == pytest.approx(layer.alpha, rel=1e-6)
    assert cell["values"]["N"] == layer.N
    assert list(cell["histogram"]["counts"]) == list(layer.histogram.counts)
    assert cell["trap_places"][0][0] == (3, 4)
    assert cell["words"] == ww.report.in_words(layer)


def test_findings_rules_and_ratios_are_those_of_the_run(recorded):
    folder, monitor = recorded
    answer = the_run(folder).answer()
    alarms = [finding for finding in answer["findings"] if finding["alarm"] and finding["until"] is None]
    assert [(each["kind"], each["since"]) for each in alarms if each["kind"] == "trap_elements"] == [
        ("trap_elements", TRAP)
    ]
    assert answer["layers"][alarms[0]["layers"][0]]["name"] == "h.1.fc"
    verdict = monitor.published.verdicts["stop"]
    assert {rule["name"]: rule["score"][-1] for rule in answer["rules"]} == pytest.approx(verdict["scores"])
    assert answer["stop"].startswith("traps: h.1.fc has 1 correlation trap")
    (curve,) = answer["curves"]
    assert (curve["name"], curve["steps"]) == ("val_accuracy", list(range(20, STEPS + 1, 20)))
    ratios = the_run(folder).column("lr_ratio")
    np.testing.assert_allclose(ratios[-1], monitor.published.verdicts["learning_rate"]["ratios"], atol=1e-4)


def test_json_lines_alone_show_the_same(recorded, copied):
    shutil.rmtree(copied / "a" / "ww")
    run, whole = the_run(copied), the_run(recorded[0])
    np.testing.assert_array_equal(run.column("alpha"), whole.column("alpha"))
    for finding, other in zip(run.answer()["findings"], whole.answer()["findings"], strict=True):
        assert finding == other
    assert run.info() == whole.info()
    assert run.cell(1, 5)["histogram"] == whole.cell(1, 5)["histogram"]


def test_a_run_that_grows_is_read_on(tmp_path):
    history = record(tmp_path / "whole", steps=20).history
    output = TensorBoardOutput(tmp_path / "runs" / "a" / "ww")
    runs = Runs(tmp_path)
    for number, report in enumerate(history, start=1):
        output.write(report, {"ww/alpha": 1.0}, float(number))
        output.flush()
        run = runs.get("runs/a").run
        assert run.answer()["steps"] == history.steps[:number]
        assert run.answer(number - 1)["steps"] == history.steps[number - 1 : number]
        assert run.column("stable_rank").shape == (number, len(report))
    output.close()
    assert run.version == 1


def test_a_restarted_run_replaces_the_later_reports(tmp_path):
    for steps in ([0, 10, 20, 30], [20, 25]):
        output = TensorBoardOutput(tmp_path / "a" / "ww")
        for step in steps:
            layer = ww.LayerReport(name="fc", kind="Linear", alpha=2.0 + len(steps), step=step)
            output.write(Report((layer,), step), {}, 1.0)
        output.close()
    run = the_run(tmp_path)
    assert run.answer()["steps"] == [0, 10, 20, 25]
    assert run.column("alpha")[:, 0].tolist() == [6.0, 6.0, 4.0, 4.0]
    assert run.version == 2


def test_layers_that_take_turns_keep_their_last_value_and_spectrum(tmp_path):
    counts = {"a": (1, 2, 3), "b": (4, 5, 6)}

    def layer(name, step):
        histogram = ww.report.Histogram(0.0, 1.0, counts[name])
        return ww.LayerReport(name=name, kind="Linear", alpha=float(step), step=step, histogram=histogram)

    output = TensorBoardOutput(tmp_path / "a" / "ww")
    for step, steps in ((10, (10, None)), (20, (10, 20)), (30, (30, 20))):
        layers = [
            ww.LayerReport.waiting(name, "Linear", "matrix") if own is None else layer(name, own)
            for name, own in zip(counts, steps, strict=True)
        ]
        output.write(Report(tuple(layers), step), {}, 1.0)
    output.close()
    run = the_run(tmp_path)
    np.testing.assert_array_equal(run.column("alpha"), [[10, np.nan], [10, 20], [30, 20]])
    for name, report, step in ((0, 1, 10), (0, 2, 30), (1, 1, 20), (1, 2, 20)):
        cell = run.cell(name, report)
        assert (cell["step"], cell["values"]["alpha"]) == (step, step)
        assert tuple(cell["histogram"]["counts"]) == list(counts.values())[name]
    assert run.cell(1, 0)["histogram"] is None


def test_an_event_file_cut_in_the_middle_shows_what_is_before(copied, monkeypatch):
    path = event_file(copied)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    (copied / "a" / "ww_history.jsonl").unlink()
    monkeypatch.setattr("ww_callbacks.page.sources.STILL", -1.0)
    files = Runs(copied).get("a")
    assert 2 <= len(files.run.entries) < STEPS // 10 + 1
    assert files.problem == f"{path.name} is cut or damaged: what follows is not read"


def test_a_damaged_event_is_said_and_what_follows_is_read(copied):
    path = event_file(copied)
    with path.open("rb") as file:
        events = list(records(file))
    at = next(index for index, data in enumerate(events) if Event.FromString(data).step == 20)
    path.write_bytes(b"".join(framed(b"\xff" * 9 if index == at else data) for index, data in enumerate(events)))
    runs = Runs(copied)
    for _ in range(2):  # it stays said
        files = runs.get("a")
        assert files.problem.startswith(f"{path.name}: a record that holds no event: ")
        assert files.run.answer()["steps"] == [0, 10, 30, 40, 50, 60]


def test_event_files_of_earlier_versions_show_the_logged_layers(tmp_path):
    folder = tmp_path / "a" / "ww"
    folder.mkdir(parents=True)
    old = {"ww/alpha": 3.0, "ww/lag_steps": 1.0, "ww_layer/D/000.fc": 0.1}
    events = [
        Event(summary=scalar_summary(old | {"ww_layer/alpha/000.fc": 3.0 + step}), step=step, wall_time=1.0)
        for step in (0, 10)
    ]
    records = [framed(event.SerializeToString()) for event in events]
    (folder / "events.out.tfevents.1.host").write_bytes(b"".join(records))
    files = Runs(tmp_path).get("a")
    assert files.problem == "written by an earlier version: only the logged layers, without spectra"
    assert files.run.column("alpha")[:, 0].tolist() == [3.0, 13.0]
    assert files.run.cell(0, 1)["histogram"] is None


def test_a_metric_recorded_at_every_step_is_whole_though_all_results_came_at_the_end(tmp_path):
    ready = threading.Event()
    weights = {"fc": np.random.default_rng(0).standard_normal((60, 50))}
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ready.wait, 30)
        options = {"every_n_steps": 40, "log_dir": tmp_path / "a", "figures": False}
        with ww.Monitor(weights, executor=pool, **options) as monitor:
            for step in range(1, 121):
                weights["fc"] *= 1.01
                monitor.record("train_loss", 1 / step, step)
                monitor.step(step)
            ready.set()
    (curve,) = the_run(tmp_path).answer()["curves"]
    assert (curve["steps"][0], curve["steps"][-1]) == (1, 120)
    assert len(curve["steps"]) == 50  # the most that travel with one report
    assert curve["values"] == pytest.approx([1 / step for step in curve["steps"]])


def test_losses_of_other_event_files_of_the_run_are_curves(copied):
    from torch.utils.tensorboard import SummaryWriter

    places = ((copied / "a", "train_loss"), (copied / "a" / "validation", "epoch_loss"), (copied / "a", "val_accuracy"))
    for folder, tag in places:
        with SummaryWriter(folder) as writer:
            for step in (10, 20):
                writer.add_scalar(tag, 1 / step, step)
    curves = the_run(copied).answer()["curves"]
    assert [(curve["name"], curve["group"]) for curve in curves] == [
        ("validation: epoch_loss (steps from its times)", "loss"),
        ("train_loss", "loss"),
        ("val_accuracy", "quality"),
    ]
    assert curves[1]["steps"] == curves[2]["steps"] == [10, 20]  # not those of monitor.record
    assert curves[1]["values"] == pytest.approx([0.1, 0.05])


def test_folders_are_grouped_into_runs(recorded, copied):
    shutil.copytree(copied / "a", copied / "sweep" / "a")
    (copied / "empty").mkdir()
    runs = Runs(copied)
    assert [identity for identity, _, _ in runs.listed()] == ["a", "sweep/a"]
    shutil.rmtree(copied / "a")
    runs._looked = -1e9
    assert [identity for identity, _, _ in runs.listed()] == ["sweep/a"]


def test_a_folder_that_is_a_run_has_its_own_name(recorded):
    runs = Runs(recorded[0] / "a")
    ((identity, files, _),) = runs.listed()
    assert (identity, files.run.info()["name"]) == (".", "a")


def test_columns_that_can_be_read_again_are_dropped_for_other_runs(recorded, copied, monkeypatch):
    monkeypatch.setattr("ww_callbacks.page.runs.MAX_WIDE", 1)
    shutil.copytree(copied / "a", copied / "b")
    runs = Runs(copied)
    for identity in ("a", "b"):
        runs.get(identity)
        runs.wide(identity).column("entropy")
    assert not runs.get("a").run.is_wide
    assert runs.get("b").run.is_wide
    np.testing.assert_array_equal(runs.wide("a").column("entropy"), runs.wide("b").column("entropy"))


def test_a_file_that_is_replaced_is_read_again(copied):
    runs = Runs(copied)
    assert len(runs.get("a").run.entries) == STEPS // 10 + 1
    shutil.rmtree(copied / "a" / "ww")
    (copied / "a" / "ww_history.jsonl").unlink()
    record(copied / "a", steps=10)
    runs._looked = -1e9
    run = runs.get("a").run
    assert run.answer()["steps"] == [0, 10]
    assert run.version > 1


def test_json_lines_of_a_finding_that_cannot_be_read_are_left_out(tmp_path):
    output = JsonlOutput(tmp_path / "a" / "ww_history.jsonl")
    output.write(Report((ww.LayerReport(name="fc", kind="Linear", alpha=2.0, step=5),), 5), {}, 1.0)
    output.close()
    with (tmp_path / "a" / "ww_history.jsonl").open("a") as file:
        file.write(json.dumps({"finding": {"kind": "frozen", "layers": 3}}) + "\n")
    assert the_run(tmp_path).answer()["findings"] == []


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(NotADirectoryError, match="there is no folder of that name"):
        Runs(tmp_path / "nothing")
