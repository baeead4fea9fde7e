import json
from dataclasses import replace

import numpy as np
import pytest
from processes import eventually

import ww_callbacks as ww
from ww_callbacks.outputs.jsonl import JsonlOutput, read_jsonl
from ww_callbacks.report import Report


def reports(steps):
    rng = np.random.default_rng(0)
    result = []
    for step in steps:
        weights = {"fc/ö": rng.standard_normal((90, 60)), "b": np.ones(3), "n": np.full((9, 9), np.nan)}
        layers = [replace(layer, step=step) for layer in ww.analyze(weights)]
        result.append(Report(tuple(layers), step))
    return result


def write(path, some):
    output = JsonlOutput(path)
    for report in some:
        output.write(report, {}, 123.25)
    output.close()


def test_what_was_written_is_read_back_to_the_last_bit(tmp_path):
    written = reports([0, 10, 25])
    write(tmp_path / "h.jsonl", written)
    assert list(read_jsonl(tmp_path / "h.jsonl")) == [*(one.without_spectra() for one in written[:-1]), written[-1]]
    assert ww.read_jsonl is read_jsonl


def test_each_line_is_plain_json_with_step_time_and_layers(tmp_path):
    (written,) = reports([7])
    write(tmp_path / "h.jsonl", [written])
    (line,) = (tmp_path / "h.jsonl").read_text().splitlines()
    values = json.loads(line, parse_constant=pytest.fail)  # no NaN, no Infinity
    assert (values["step"], values["wall_time"]) == (7, 123.25)
    assert Report.from_dicts(values["layers"]) == written


def test_lines_can_be_read_while_the_file_is_open(tmp_path):
    output = JsonlOutput(tmp_path / "h.jsonl")
    for count, report in enumerate(reports([0, 1, 2]), start=1):
        output.write(report, {}, 0.0)
        assert eventually(lambda: len(read_jsonl(tmp_path / "h.jsonl")) == count)  # noqa: B023 - called at once
    output.close()


def test_folders_are_made(tmp_path):
    write(tmp_path / "a" / "b" / "h.jsonl", reports([0]))
    assert len(read_jsonl(str(tmp_path / "a" / "b" / "h.jsonl"))) == 1


def test_a_last_line_that_was_cut_off_anywhere_is_ignored(tmp_path):
    path = tmp_path / "h.jsonl"
    write(path, reports([0, 1]))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in [*range(first, first + 40), *range(first + 41, len(whole) - 1, 97), len(whole) - 2]:
        path.write_bytes(whole[:end])
        assert read_jsonl(path).steps == [0], f"cut at byte {end}"
    path.write_bytes(whole[:-1])  # only the newline is missing
    assert read_jsonl(path).steps == [0, 1]


def test_an_empty_file_has_no_reports(tmp_path):
    write(tmp_path / "h.jsonl", [])
    assert len(read_jsonl(tmp_path / "h.jsonl")) == 0


@pytest.mark.parametrize(
    "line",
    ["nonsense", "[]", "3", "{}", '{"layers": 3}', '{"layers": [3]}', '{"layers": [{"name": "a"}]}', ""],
)
def test_a_broken_line_in_the_middle_is_an_error_that_names_file_and_line(tmp_path, line):
    path = tmp_path / "h.jsonl"
    write(path, reports([0, 1]))
    first, second = path.read_text().splitlines()
    path.write_text("\n".join([first, line, second]) + "\n")
    with pytest.raises(ValueError, match=r"h\.jsonl, line 2: not a report"):
        read_jsonl(path)


def test_a_column_of_another_version_is_an_error_that_names_it(tmp_path):
    layer = reports([0])[0].to_dicts()[0] | {"beauty": 3}
    (tmp_path / "h.jsonl").write_text(json.dumps({"step": 0, "layers": [layer]}) + "\n")
    with pytest.raises(ValueError, match=r"line 1: not a report: .*beauty"):
        read_jsonl(tmp_path / "h.jsonl")


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_jsonl(tmp_path / "nothing.jsonl")


def test_a_run_that_goes_on_appends_to_its_file(tmp_path):
    path = tmp_path / "h.jsonl"
    write(path, reports([0, 10]))
    write(path, reports([20, 30]))
    assert read_jsonl(path).steps == [0, 10, 20, 30]


def test_a_run_that_goes_on_after_a_crash_in_the_middle_of_a_line_leaves_a_readable_file(tmp_path):
    path = tmp_path / "h.jsonl"
    write(path, reports([0, 10]))
    path.write_bytes(path.read_bytes()[:-50])  # the run was killed while it wrote
    write(path, reports([20, 30]))
    steps = read_jsonl(path).steps
    assert steps[0] == 0
    assert steps[-2:] == [20, 30]


def test_running_the_same_script_twice_leaves_a_readable_file(tmp_path):
    path = tmp_path / "h.jsonl"
    write(path, reports([0, 10]))
    write(path, reports([0, 10]))
    assert read_jsonl(path).steps[-1] == 10
