import errno
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from processes import eventually

import ww_callbacks as ww
from ww_callbacks.outputs.panels import Later, Panels
from ww_callbacks.outputs.spectra_protos import PLUGIN
from ww_callbacks.outputs.tensorboard import SummaryWriterOutput, TensorBoardOutput, scalar_summary, writer_output
from ww_callbacks.report import Histogram, LayerReport, Report

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x03\0\0\0\x02 and so on"


def report(step):
    return Report((LayerReport(name="fc", kind="Linear", step=step),), step)


def event_files(folder):
    return sorted(Path(folder).glob("events.out.tfevents.*"))


def scalar_events(folder):
    (file,) = event_files(folder)
    events = [event for event in LegacyEventFileLoader(str(file)).Load() if event.HasField("summary")]
    for event in events:
        own = [value for value in event.summary.value if value.metadata.plugin_data.plugin_name == PLUGIN]
        for value in own:
            event.summary.value.remove(value)
    return [event for event in events if event.summary.value and event.summary.value[0].HasField("simple_value")]


def scalars(folder, tag):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return [(point.step, point.value, point.wall_time) for point in accumulator.Scalars(tag)]


def write_three(output):
    for step in (0, 10, 25):
        output.write(report(step), {"ww/alpha": step / 8, "ww/D": 0.5}, 1_700_000_000.5 + step)


EXPECTED = [(step, step / 8, 1_700_000_000.5 + step) for step in (0, 10, 25)]


def test_each_snapshot_is_one_event_with_all_its_metrics(tmp_path):
    output = TensorBoardOutput(tmp_path)
    write_three(output)
    output.close()
    events = scalar_events(tmp_path)
    assert [event.step for event in events] == [0, 10, 25]
    assert all([value.tag for value in event.summary.value] == ["ww/alpha", "ww/D"] for event in events)


def test_tensorboard_reads_values_steps_and_the_time_of_the_snapshot(tmp_path):
    output = TensorBoardOutput(tmp_path / "new" / "folder")
    write_three(output)
    output.close()
    assert scalars(tmp_path / "new" / "folder", "ww/alpha") == EXPECTED


def test_a_live_reader_sees_each_snapshot_at_once(tmp_path):
    output = TensorBoardOutput(tmp_path)
    for count in (1, 2, 3):
        output.write(report(count), {"ww/alpha": 1.0}, 0.0)
        expected = list(range(1, count + 1))
        assert eventually(lambda: [event.step for event in scalar_events(tmp_path)] == expected, 5.0)  # noqa: B023
    output.close()


def test_many_metrics_of_a_large_model_arrive_complete(tmp_path):
    metrics = {f"ww_layer/alpha/{i:03d}.block_{i}": i / 4 for i in range(1000)}
    output = TensorBoardOutput(tmp_path)
    output.write(report(3), metrics, 0.0)
    output.close()
    (event,) = scalar_events(tmp_path)
    assert {value.tag: value.simple_value for value in event.summary.value} == metrics


def test_closing_twice_is_harmless(tmp_path):
    output = TensorBoardOutput(tmp_path)
    output.close()
    output.close()


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        TensorBoardOutput(tmp_path / "file" / "run")


@pytest.mark.timeout(60)
def test_without_tensorboard_the_error_names_the_extra():
    script = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorboard":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from ww_callbacks.outputs.tensorboard import TensorBoardOutput, scalar_summary
for call in (lambda: TensorBoardOutput("never"), lambda: scalar_summary({})):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.count("pip install ww_callbacks[tensorboard]") == 2
    assert not Path("never").exists()


def test_a_summary_keeps_numbers_that_are_large_or_small():
    summary = scalar_summary({"a": 1e30, "b": 1e-30, "c": -3})
    assert {value.tag: value.simple_value for value in summary.value} == pytest.approx({"a": 1e30, "b": 1e-30, "c": -3})


# --- through a writer that somebody else owns ------------------------------------------------------------------------


def test_a_summary_writer_gets_one_event_per_snapshot_in_its_own_single_file(tmp_path):
    writer_module = pytest.importorskip("torch.utils.tensorboard")
    writer = writer_module.SummaryWriter(str(tmp_path))
    writer.add_scalar("loss", 3.0, 5)
    output = SummaryWriterOutput(writer)
    write_three(output)
    assert eventually(lambda: len(ours(tmp_path)) == 3, 20.0)  # flushed, so that a live reader sees them
    assert len(event_files(tmp_path)) == 1
    assert all(len(event.summary.value) == 2 for event in ours(tmp_path))
    output.close()
    writer.add_scalar("loss", 2.0, 30)  # the writer is still its owner's
    writer.close()
    assert scalars(tmp_path, "ww/alpha") == EXPECTED
    assert [(step, value) for step, value, _ in scalars(tmp_path, "loss")] == [(5, 3.0), (30, 2.0)]


def ours(folder):
    return [event for event in scalar_events(folder) if any(value.tag == "ww/alpha" for value in event.summary.value)]


def test_a_report_is_encoded_in_a_thread(tmp_path):
    class Metrics(dict):
        def items(self):
            threads.add(threading.current_thread())
            return super().items()

    threads = set()
    with pytest.importorskip("torch.utils.tensorboard").SummaryWriter(str(tmp_path)) as writer:
        output = SummaryWriterOutput(writer)
        output.write(report(5), Metrics({"ww/alpha": 1.0}), 0.0)
        output.close()
    assert threads
    assert threading.main_thread() not in threads


def test_nothing_is_lost_and_the_order_is_kept_while_the_owner_writes_too(tmp_path):
    steps = list(range(300))
    with pytest.importorskip("torch.utils.tensorboard").SummaryWriter(str(tmp_path)) as writer:
        output = SummaryWriterOutput(writer)
        for step in steps:
            writer.add_scalar("loss", step, step)
            output.write(report(step), {"ww/alpha": float(step)}, 1.0)
            if step % 100 == 99:  # fewer wait than the thread takes
                assert eventually(lambda: [event.step for event in ours(tmp_path)][-1:] == [step], 60.0)  # noqa: B023
        output.close()
    assert [(step, value) for step, value, _ in scalars(tmp_path, "ww/alpha")] == [(step, step) for step in steps]
    assert [step for step, _, _ in scalars(tmp_path, "loss")] == steps


@pytest.mark.parametrize("later", [[], [25]], ids=["at the end", "with the next results"])
def test_what_a_closed_writer_does_not_take_goes_into_the_file_that_torch_opens_next(tmp_path, later):
    def wait():
        is_closed.wait(20)
        return {"ww/layers": "| a |"}

    is_closed = threading.Event()
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(str(tmp_path))
    output = SummaryWriterOutput(writer)
    output.write(report(0), {"ww/alpha": 0.0}, 1.0)
    output.show(Panels(0, 1.0, texts=Later(wait)))  # keeps the thread busy
    output.write(report(10), {"ww/alpha": 1.0}, 2.0)
    assert eventually(lambda: ours(tmp_path), 20.0)
    writer.close()  # by its owner, before our end
    is_closed.set()
    for step in later:
        output.write(report(step), {"ww/alpha": 2.0}, 3.0)
    output.close()
    writer.close()
    first, second = (records_of(file) for file in event_files(tmp_path))
    assert first == [(0, "ww/alpha")]
    assert second == [(0, "ww/layers"), *((step, "ww/alpha") for step in [10, *later])]


def records_of(file):
    """Step and last tag of each event."""
    events = LegacyEventFileLoader(str(file)).Load()
    return [(event.step, event.summary.value[-1].tag) for event in events if event.summary.value]


def test_an_error_of_the_disk_reaches_the_next_call(tmp_path):
    class FullDisk:
        """Its event file cannot be written."""

        log_dir, event_writer = str(tmp_path), property(lambda self: self)

        def _get_file_writer(self):
            return self

        def add_event(self, event):
            raise OSError(errno.ENOSPC, "No space left on device")

    output = SummaryWriterOutput(FullDisk())
    output.write(report(0), {"ww/alpha": 1.0}, 1.0)
    with pytest.raises(OSError, match="No space left"):
        output.close()


def test_another_writer_gets_its_scalars_through_add_scalar():
    class Writer:
        def __init__(self):
            self.points, self.flushed = [], 0

        def add_scalar(self, tag, value, global_step=None, walltime=None):
            self.points.append((tag, value, global_step, walltime))

        def flush(self):
            self.flushed += 1

    writer = Writer()
    output = writer_output(writer)
    assert not hasattr(output, "show")  # so that nothing is drawn for it
    write_three(output)
    output.close()
    assert [point[1:] for point in writer.points if point[0] == "ww/alpha"] == [
        (value, step, time) for step, value, time in EXPECTED
    ]
    assert len(writer.points) == 6
    assert writer.flushed == 3


@pytest.mark.timeout(60)
def test_a_run_with_a_monitor_has_strictly_increasing_steps_in_every_tag(tmp_path):
    weights = {"fc": np.random.default_rng(0).standard_normal((80, 60))}
    with ww.Monitor(weights, every_n_steps=2, log_dir=tmp_path, deterministic=True, figures=False) as monitor:
        for step in range(1, 8):
            monitor.step(step)
    events = scalar_events(tmp_path / "ww")
    assert [event.step for event in events] == [0, 2, 4, 6, 7]
    accumulator = EventAccumulator(str(tmp_path / "ww"), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    assert {"ww/alpha", "ww_layer/alpha/000.fc", "ww/lag_steps"} <= set(tags)
    for tag in tags:
        late = 1 if tag == "ww/finding/frozen" else 0  # the weights have not changed since the result before
        assert [point.step for point in accumulator.Scalars(tag)] == [0, 2, 4, 6, 7][late:]


# --- more than scalars -----------------------------------------------------------------------------------------------


def everything(folder):
    kinds = ("scalars", "images", "histograms", "tensors")
    accumulator = EventAccumulator(str(folder), size_guidance=dict.fromkeys(kinds, 0))
    accumulator.Reload()
    return accumulator


def panels(step):
    return Panels(
        step,
        1_700_000_000.0 + step,
        images={"ww/x": PNG},
        texts={"ww/layers": "| a |"},
        histograms={"ww_layer/log10_eigenvalues/000.fc": Histogram(-1.0, 2.0, (0, 3, 1))},
    )


def check_panels(folder):
    read = everything(folder)
    (image,) = read.Images("ww/x")
    assert (image.step, image.width, image.height, image.encoded_image_string) == (7, 3, 2, PNG)
    (text,) = read.Tensors("ww/layers")
    assert (text.step, text.tensor_proto.string_val[0]) == (7, b"| a |")
    assert read.SummaryMetadata("ww/layers").plugin_data.plugin_name == "text"
    (histogram,) = read.Histograms("ww_layer/log10_eigenvalues/000.fc")
    value = histogram.histogram_value
    assert (value.min, value.max, value.num) == (-1, 2, 4)
    assert list(value.bucket_limit) == [-1, 0, 1, 2]
    assert list(value.bucket) == [0, 0, 3, 1]
    assert value.sum == pytest.approx(3 * 0.5 + 1.5)


def test_pictures_texts_and_histograms_are_read_back(tmp_path):
    output = TensorBoardOutput(tmp_path)
    output.show(panels(7))
    output.close()
    check_panels(tmp_path)


def test_a_summary_writer_gets_them_too_into_its_single_file(tmp_path):
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(str(tmp_path))
    output = writer_output(writer)
    output.show(panels(7))
    output.close()
    assert len(event_files(tmp_path)) == 1
    check_panels(tmp_path)
    writer.close()


BAND = {"ww/alpha_median": 2.0, "ww/alpha_min": 1.0, "ww/alpha_max": 3.0}


def write_growing(output):
    """A run of four layers with a matrix and one without. A second layer is logged from step 10 on."""
    layers = [
        *(LayerReport(name=f"fc{i}", kind="Linear", M=60) for i in range(4)),
        LayerReport(name="b", kind="Linear"),
    ]
    metrics = BAND | {"ww_layer/alpha/000.fc0": 3.0, "ww/stop/traps": 0.0}
    output.write(Report(tuple(layers), 0), metrics, 1.0)
    output.write(Report(tuple(layers), 5), metrics, 2.0)
    output.write(Report(tuple(layers), 10), metrics | {"ww_layer/alpha/002.fc2": 3.0, "ww/finding/frozen": 1.0}, 3.0)


def check_charts(folder):
    read = everything(folder)
    assert [event.step for event in read.Tensors("custom_scalars__config__")] == [0, 10]  # written when it changes
    custom_scalars_plugin = pytest.importorskip(
        "tensorboard.plugins.custom_scalar.custom_scalars_plugin",
        reason="the oldest TensorBoard needs six, and does not install it",
    )
    plugin = custom_scalars_plugin.CustomScalarsPlugin(
        base_plugin.TBContext(data_provider=provider_of(folder), logdir=str(folder))
    )
    (category,) = json.loads(plugin.layout_impl(RequestContext(), ""))["category"]  # the latest layout
    band, alpha, *others = category["chart"]
    assert band["margin"]["series"] == [{"value": "ww/alpha_median", "lower": "ww/alpha_min", "upper": "ww/alpha_max"}]
    assert alpha["title"] == "alpha by layer: 2 of 4"
    assert re.match(alpha["multiline"]["tag"][0], "ww_layer/alpha/000.fc0")
    assert [chart["title"] for chart in others] == ["layers with findings", "towards a stop"]


def provider_of(folder):
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    return data_provider.MultiplexerDataProvider(multiplexer, str(folder))


def test_charts_are_those_of_what_is_attached_and_say_how_many_layers_they_show(tmp_path):
    output = TensorBoardOutput(tmp_path)
    write_growing(output)
    output.close()
    check_charts(tmp_path)


def test_a_summary_writer_gets_the_same_charts(tmp_path):
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(str(tmp_path))
    output = writer_output(writer)
    write_growing(output)
    output.close()
    writer.close()
    check_charts(tmp_path)


def run(folder, **arguments):
    rng = np.random.default_rng(0)
    weights = {f"fc{i}": rng.standard_normal((80, 60)) for i in range(5)}
    with ww.Monitor(weights, every_n_steps=2, log_dir=folder, **arguments) as monitor:
        for step in range(1, 6):
            weights["fc0"] += 0.2  # a trap, so that there is a worst layer
            monitor.step(step)
            monitor.wait_for_first()
    return monitor


@pytest.mark.timeout(60)
def test_a_run_draws_in_the_worker_and_ends_with_the_pictures_of_its_last_snapshot(tmp_path):
    pytest.importorskip("matplotlib")
    script = f"""
import sys
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}
import ww_callbacks.monitor.monitor as monitor_module
from test_tensorboard import run
monitor_module.FIGURES_TIMEOUT = 50.0  # the worker imports matplotlib, which takes long on a busy machine
monitor = run({str(tmp_path)!r})
print("matplotlib" in sys.modules, len(monitor.history))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=55, check=True)
    assert done.stdout.split()[0] == "False"
    read = everything(tmp_path / "ww")
    assert {"ww/worst_spectrum", "ww/correlation_flow", "ww/alpha_histogram", "ww/alpha_map"} < set(
        read.Tags()["images"]
    )
    assert len([tag for tag in read.Tags()["images"] if tag.startswith("ww_layer/spectrum/")]) == 3
    for tag in read.Tags()["images"]:
        steps = [image.step for image in read.Images(tag)]
        assert steps == sorted(set(steps))
        assert steps[-1] == 5 or tag == "ww/worst_spectrum"
    assert [text.step for text in read.Tensors("ww/layers")][-1] == 5


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("figures", "drawn"), [(False, None), (["fc1", "fc3"], ["001.fc1", "003.fc3"])])
def test_the_user_chooses_what_is_drawn(tmp_path, figures, drawn):
    pytest.importorskip("matplotlib")
    run(tmp_path, figures=figures, executor="thread")
    tags = everything(tmp_path / "ww").Tags()
    if drawn is None:
        assert not tags["images"]
        assert not tags["histograms"]
    else:
        assert [tag.rsplit("/")[-1] for tag in tags["images"] if tag.startswith("ww_layer/spectrum/")] == drawn


@pytest.mark.timeout(60)
@pytest.mark.parametrize("executor", ["thread", "sync"])
def test_without_a_worker_process_pictures_are_drawn_after_training_only(tmp_path, executor):
    pytest.importorskip("matplotlib")
    run(tmp_path, executor=executor)
    read = everything(tmp_path / "ww")
    assert [image.step for image in read.Images("ww/alpha_map")] == [5]


@pytest.mark.timeout(60)
def test_a_worker_without_matplotlib_costs_one_line_and_the_pictures(tmp_path, monkeypatch, caplog):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "matplotlib.py").write_text("raise ImportError('no matplotlib')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    monitor = run(tmp_path, deterministic=True)
    read = everything(tmp_path / "ww")
    assert not read.Tags()["images"]
    assert len(read.Scalars("ww/alpha")) == len(monitor.history) == 4
    assert [text.step for text in read.Tensors("ww/layers")] == [0, 2, 4, 5]
    assert caplog.text.count("pip install ww_callbacks[plot]") == 1


@pytest.mark.parametrize(
    ("figures", "error"), [(None, TypeError), ("fc", TypeError), ([], ValueError), (["zz"], ValueError)]
)
def test_wrong_figures_are_named(tmp_path, figures, error):
    with pytest.raises(error, match=r"^figures"):
        ww.Monitor({"fc": np.eye(60)}, log_dir=tmp_path, figures=figures)
