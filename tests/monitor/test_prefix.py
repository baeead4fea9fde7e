"""Metrics named with a prefix, so that two monitors can share a run."""

from __future__ import annotations

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.custom_scalar import layout_pb2

import ww_callbacks as ww
from ww_callbacks.outputs.tensorboard import records
from ww_callbacks.page.runs import Runs


class Kept:
    """An output that keeps what it gets."""

    def __init__(self):
        self.metrics, self.tags = {}, set()

    def write(self, report, metrics, wall_time):
        self.metrics = metrics

    def show(self, panels):
        self.tags |= {*panels.images, *panels.texts, *panels.histograms}

    def close(self):
        pass


def weights(seed=0):
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal((80, 60)) for name in ("fc1", "fc2")}


def watch(model, *, state=None, steps=(1, 2, 3), **options):
    monitor = ww.Monitor(model, every_n_steps=1, executor="sync", **({"figures": False} | options))
    monitor.load_state_dict(state or {})
    with monitor:
        for step in steps:
            model["fc1"] *= 1.01
            monitor.step(step)
    return monitor


def values_in(folder):
    (path,) = folder.glob("ww/*tfevents*")
    with path.open("rb") as file:
        return [value for data in records(file) for value in Event.FromString(data).summary.value]


def test_every_name_begins_with_the_prefix_and_the_values_are_the_same():
    usual, named = Kept(), Kept()
    plain = watch(weights(), outputs=[usual])
    monitor = watch(weights(), outputs=[named], figures=["fc1"], prefix="actor")
    renamed = {f"actor{key.removeprefix('ww')}": value for key, value in usual.metrics.items()}
    assert named.metrics == renamed
    assert {"actor/alpha", "actor/lag_steps", "actor_layer/alpha/000.fc1"} <= renamed.keys()
    assert {"actor/layers", "actor/alpha_map", "actor_layer/spectrum/000.fc1"} <= named.tags
    assert {tag.partition("/")[0] for tag in named.tags} == {"actor", "actor_layer"}
    assert monitor.metrics == {f"actor{key.removeprefix('ww')}": value for key, value in plain.metrics.items()}


@pytest.mark.parametrize("prefix", ["actor", "critic", "ww"])
def test_a_resumed_run_has_the_prefix_of_now(prefix):
    first = watch(weights(), prefix="actor")
    second = watch(weights(), state=first.state_dict(), steps=(4,), prefix=prefix)
    assert second.history.steps == [0, 1, 2, 3, 4]
    assert {key.partition("/")[0] for key in second.metrics} == {prefix}


def test_a_metric_that_is_lost_after_the_resume_is_nan_under_its_name():
    first = watch(weights(), prefix="actor")
    model = weights()
    for array in model.values():
        array[:] = np.nan
    kept = Kept()
    watch(model, state=first.state_dict(), steps=(4,), prefix="actor", outputs=[kept])
    assert np.isnan(kept.metrics["actor/alpha"])
    assert not [key for key in kept.metrics if key.startswith("ww")]


def test_the_page_and_the_charts_of_tensorboard_follow_the_prefix(tmp_path):
    monitor = watch(weights(), log_dir=tmp_path, prefix="a.b")
    ((_, files, _),) = Runs(tmp_path).listed()
    answer = files.run.answer()
    assert answer["steps"] == [0, 1, 2, 3]
    assert answer["summary"]["alpha"] == pytest.approx(monitor.history.series("alpha"))
    assert answer["lag"] == [0] * 4
    assert not answer["curves"]
    assert files.run.column("alpha").shape == (4, 2)
    layouts = [value for value in values_in(tmp_path) if value.tag == "custom_scalars__config__"]
    charts = layout_pb2.Layout.FromString(layouts[-1].tensor.string_val[0]).category[0].chart
    assert {"a.b: alpha by layer: 2 of 2", "a.b: lag and missed snapshots"} <= {chart.title for chart in charts}
    assert r"^a\.b_layer/alpha/.*$" in [tag for chart in charts for tag in chart.multiline.tag]


def test_two_monitors_in_one_event_file_are_two_runs_of_the_page(tmp_path):
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(tmp_path)
    from ww_callbacks.outputs.tensorboard import SummaryWriterOutput

    monitors = [
        watch(weights(seed), outputs=[SummaryWriterOutput(writer, prefix)], prefix=prefix)
        for seed, prefix in enumerate(("actor", "critic"))
    ]
    writer.add_scalar("loss", 0.5, 3)
    writer.close()
    runs = Runs(tmp_path)
    list(runs.listed())
    for monitor, identity in zip(monitors, (".", ".@critic"), strict=True):
        answer = runs.get(identity).run.answer()
        assert answer["summary"]["alpha"] == pytest.approx(monitor.history.series("alpha"))
        assert [curve["name"] for curve in answer["curves"]] == ["loss"]
    assert runs.get(".@critic").run.name == f"{tmp_path.name} (critic)"
    (path,) = tmp_path.glob("*tfevents*")
    with path.open("rb") as file:
        values = [value for data in records(file) for value in Event.FromString(data).summary.value]
    layout = [value for value in values if value.tag == "custom_scalars__config__"][-1]
    titles = [chart.title for chart in layout_pb2.Layout.FromString(layout.tensor.string_val[0]).category[0].chart]
    assert {title.partition(":")[0] for title in titles} == {"actor", "critic"}


@pytest.mark.parametrize(
    ("prefix", "error", "words"),
    [
        ("", ValueError, "prefix: expected letters, digits"),
        ("a/b", ValueError, "got 'a/b'"),
        ("a:b", ValueError, "got 'a:b'"),
        (None, TypeError, "prefix: expected a string, got None"),
    ],
)
def test_a_prefix_that_a_logger_refuses_is_an_error(prefix, error, words):
    with pytest.raises(error, match=words):
        ww.Monitor(weights(), prefix=prefix)
