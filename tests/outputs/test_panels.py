import base64
import io
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.outputs.layer_map import map_column
from ww_callbacks.outputs.panel_schedule import MAX_STEPS, PanelSchedule
from ww_callbacks.outputs.panels import draw, is_shown, layer_text, picture_task, worst_layer, written_panels
from ww_callbacks.report import LayerReport, Report

NAMES = frozenset(["a", "b"])


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(0)
    return ww.analyze(
        {"a": rng.standard_t(3, (100, 60)), "b": rng.standard_normal((100, 60)), "bias": np.ones(5)}
    ).layers


@pytest.fixture
def at(layers):
    return lambda step: Report(tuple(replace(layer, step=step) for layer in layers), step)


class Painter:
    """Somebody who draws when told to."""

    def __init__(self) -> None:
        self.tasks: list[dict] = []
        self.futures: list[Future] = []
        self.at_once = False

    def __call__(self, task: dict) -> Future:
        self.tasks.append(task)
        self.futures.append(Future())
        if self.at_once:
            self.finish(-1)
        return self.futures[-1]

    def finish(self, number: int) -> None:
        self.futures[number].set_result({"images": {"ww/x": base64.b64encode(b"png").decode()}})


def test_about_eight_reports_per_doubling_are_shown():
    shown = [number for number in range(1, 10_001) if is_shown(number)]
    assert shown[:16] == list(range(1, 17))
    assert len(shown) < 16 + 8 * np.log2(10_000 / 16) + 8
    for number in (16, 32, 64, 1024):
        assert len([each for each in shown if number < each <= 2 * number]) == 8


def test_one_set_of_pictures_is_under_way_at_a_time_and_shown_at_its_own_step(at):
    gallery = PanelSchedule(NAMES, ["a"], painter := Painter())
    assert [panels.step for panels in gallery.add(at(0), 1.0)] == [0]
    assert [panels.step for panels in gallery.add(at(10), 2.0)] == [10]
    assert len(painter.tasks) == 1
    painter.finish(0)
    drawn, written = gallery.add(at(20), 3.0)
    assert (drawn.step, drawn.wall_time, drawn.images) == (0, 1.0, {"ww/x": b"png"})
    assert (written.step, set(written.images)) == (20, set())
    assert painter.tasks[1]["map"]["steps"] == [0, 10, 20]


def test_the_last_report_always_gets_its_pictures(at):
    gallery = PanelSchedule(NAMES, ["a"], painter := Painter())
    list(gallery.add(at(0), 1.0))
    list(gallery.add(at(10), 2.0))
    painter.finish(0)
    painter.at_once = True
    assert [panels.step for panels in gallery.finish(time.monotonic() + 9)] == [0, 10]
    assert list(gallery.finish(time.monotonic() + 9)) == []


def test_where_nobody_draws_elsewhere_it_is_drawn_after_training(at):
    pytest.importorskip("matplotlib")
    gallery = PanelSchedule(NAMES, ["a"], lambda _: None)
    shown = [*gallery.add(at(0), 1.0), *gallery.finish(time.monotonic() + 9)]
    assert [bool(panels.images) for panels in shown] == [False, True]


def test_the_end_does_not_wait_longer_than_it_may(at, caplog):
    gallery = PanelSchedule(NAMES, ["a"], Painter())
    list(gallery.add(at(0), 1.0))
    start = time.monotonic()
    assert list(gallery.finish(start + 0.3)) == []
    assert time.monotonic() - start < 2
    assert "figures are disabled: not drawn within 0 s" in caplog.text


def test_a_wait_for_figures_is_said_once_with_its_limit_and_how_to_avoid_it(at, caplog, monkeypatch):
    monkeypatch.setattr("ww_callbacks.outputs.panel_schedule.SILENT", 0.05)
    gallery = PanelSchedule(NAMES, ["a"], Painter())
    list(gallery.add(at(5), 1.0))
    assert list(gallery.finish(time.monotonic() + 0.3)) == []
    (said,) = [line for line in caplog.messages if "waiting" in line]
    assert said.startswith("waiting at most 0 s for the figures of step 5 (figures=False")


def test_drawing_in_the_training_thread_is_said_if_it_takes_long(at, caplog, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("ww_callbacks.outputs.panel_schedule.SILENT", 0.0)
    gallery = PanelSchedule(NAMES, ["a"], lambda _: None)
    assert len([*gallery.add(at(5), 1.0), *gallery.finish(time.monotonic() + 9)]) == 2
    assert caplog.messages == ["drawing the figures of step 5 (figures=False leaves them out)"]


def test_a_painter_that_fails_is_named_once_and_not_asked_again(at, caplog):
    gallery = PanelSchedule(NAMES, ["a"], painter := Painter())
    list(gallery.add(at(0), 1.0))
    painter.futures[0].set_result({"error": "drawing needs matplotlib: pip install ww_callbacks[plot]"})
    for step in (10, 20, 30):
        assert [panels.step for panels in gallery.add(at(step), 1.0)] == [step]
    assert len(painter.tasks) == 1
    assert caplog.text.count("pip install ww_callbacks[plot]") == 1


def test_the_map_keeps_a_bounded_number_of_steps(at):
    gallery = PanelSchedule(NAMES, ["a"], painter := Painter())
    report = at(0)
    for step in range(600):
        list(gallery.add(replace(report, step=step), 1.0))
        if painter.futures and not painter.futures[-1].done():
            painter.finish(-1)
        if painter.tasks:
            steps = painter.tasks[-1]["map"]["steps"]
            assert len(steps) <= MAX_STEPS
            assert (steps[0], len(set(np.diff(steps)[:-1])) <= 1) == (0, True)  # evenly apart, but for the latest
    assert steps[-1] == 575  # one of the reports that are shown


def test_drawing_gives_pictures_of_the_worst_the_chosen_and_the_whole(at):
    image = pytest.importorskip("PIL.Image")
    now = Report((replace(at(30).layers[0], reliable=True), *at(30).layers[1:]), 30)
    task = picture_task(now, ["b", "missing"], [map_column(at(step)) for step in (0, 10, 30)])
    assert task["map"]["names"] == ["a", "b"]  # the bias has no matrix
    images = draw(task)
    assert set(images) == {
        "ww/worst_spectrum",
        "ww_layer/spectrum/001.b",
        "ww/correlation_flow",
        "ww/alpha_histogram",
        "ww/alpha_map",
    }
    for png in images.values():
        data = base64.b64decode(png)
        assert len(data) < 20_000
        assert image.open(io.BytesIO(data)).size == (512, 384)


def test_a_report_without_any_fit_draws_nothing():
    pytest.importorskip("matplotlib")
    bare = Report((LayerReport(name="x", kind="y", status="failed", reason="non-finite weights"),), 5)
    assert draw(picture_task(bare, [], [map_column(bare)])) == {}
    assert "failed: non-finite weights" in layer_text(bare)


def test_the_table_is_bounded_and_names_stay_text(layers):
    many = Report(tuple(replace(layers[0], name=f"<b>|{i}*", warning="", reliable=True) for i in range(60)), 5)
    text = layer_text(many)
    assert text.count("\n") == 2 + 50 + 1
    assert text.endswith("10 more layers are not shown.")
    assert "&lt;b>\\|0\\*" in text


def test_equal_notes_are_said_once_with_three_names(layers):
    alike = [replace(layers[1], name=f"h.{i}.attn", warning="no tail", reliable=False, num_traps=0) for i in range(12)]
    trained = replace(layers[0], name="head", warning="", reliable=True, num_traps=0)
    text = layer_text(Report((*alike, trained), 5))
    assert text.startswith("- 12 layers: no tail: ")
    assert text.count("no tail") == 1
    assert text.count("h.") == 3
    assert "and 9 more\n\n| layer |" in text
    assert text.splitlines()[-1].startswith("| head | ")


def test_an_alpha_without_a_reliable_tail_is_no_number_in_the_table(layers):
    noise = replace(layers[1], name="fc", alpha=7.25, reliable=False)
    assert "| fc | not reliable | - |" in layer_text(Report((noise,), 5))


def test_the_worst_layer_has_traps_or_a_reliable_tail(layers):
    noise = replace(layers[1], name="noise", alpha=40.0, warning="no tail", reliable=False, num_traps=0)
    tail = replace(layers[0], name="tail", warning="", reliable=True, num_traps=0)
    trapped = replace(noise, name="trapped", num_traps=1)
    assert worst_layer(Report((noise, noise))) is None
    assert worst_layer(Report((noise, tail))) == tail
    assert worst_layer(Report((noise, tail, trapped))) == trapped
    assert "ww/worst_spectrum" not in picture_task(Report((noise,)), [], [map_column(Report((noise,)))])["spectra"]


def test_histograms_are_those_of_layers_looked_at_now(at, layers):
    panels = written_panels(at(5), frozenset(["a"]), 1.0)
    assert list(panels.histograms) == ["ww_layer/log10_eigenvalues/000.a"]
    old = Report(layers, 7)  # their own step is another one
    assert not written_panels(old, NAMES, 1.0).histograms


@pytest.mark.timeout(60)
def test_planning_pictures_loads_no_matplotlib():
    script = """
import sys, numpy as np, ww_callbacks as ww
from ww_callbacks.outputs.layer_map import map_column
from ww_callbacks.outputs.panels import picture_task, written_panels
report = ww.analyze({"fc": np.random.default_rng(0).standard_normal((80, 60))})
picture_task(report, ["fc"], [map_column(report)]), written_panels(report, frozenset(["fc"]), 0.0)
print("matplotlib" in sys.modules, "tensorboard" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.strip() == "False False"
