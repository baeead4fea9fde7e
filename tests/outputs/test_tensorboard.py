import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.outputs.tensorboard import SummaryWriterOutput, TensorBoardOutput, scalar_summary
from ww_callbacks.report import LayerReport, Report

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader


def report(step):
    return Report((LayerReport(name="fc", kind="Linear", step=step),), step)


def event_files(folder):
    return sorted(Path(folder).glob("events.out.tfevents.*"))


def scalar_events(folder):
    (file,) = event_files(folder)
    return [event for event in LegacyEventFileLoader(str(file)).Load() if event.HasField("summary")]


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
        assert [event.step for event in scalar_events(tmp_path)] == list(range(1, count + 1))
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
    assert len(event_files(tmp_path)) == 1
    with_ours = [e for e in scalar_events(tmp_path) if any(v.tag == "ww/alpha" for v in e.summary.value)]
    assert len(with_ours) == 3  # already there: flushed
    assert all(len(event.summary.value) == 2 for event in with_ours)
    output.close()
    writer.add_scalar("loss", 2.0, 30)  # the writer is still its owner's
    writer.close()
    assert scalars(tmp_path, "ww/alpha") == EXPECTED
    assert [(step, value) for step, value, _ in scalars(tmp_path, "loss")] == [(5, 3.0), (30, 2.0)]


def test_another_writer_gets_its_scalars_through_add_scalar():
    class Writer:
        def __init__(self):
            self.points, self.flushed = [], 0

        def add_scalar(self, tag, value, global_step=None, walltime=None):
            self.points.append((tag, value, global_step, walltime))

        def flush(self):
            self.flushed += 1

    writer = Writer()
    output = SummaryWriterOutput(writer)
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
    with ww.Monitor(weights, every_n_steps=2, log_dir=tmp_path, when_busy="wait") as monitor:
        for step in range(1, 8):
            monitor.step(step)
    events = scalar_events(tmp_path / "ww")
    assert [event.step for event in events] == [0, 2, 4, 6, 7]
    accumulator = EventAccumulator(str(tmp_path / "ww"), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    assert {"ww/alpha", "ww_layer/alpha/000.fc", "ww/lag_steps"} <= set(tags)
    for tag in tags:
        assert [point.step for point in accumulator.Scalars(tag)] == [0, 2, 4, 6, 7]
