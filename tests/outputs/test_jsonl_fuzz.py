"""Lines of JSON that others wrote: a history, or one error that names file and line, in bounded memory."""

import copy
import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.cli import main
from ww_callbacks.outputs import jsonl
from ww_callbacks.outputs.jsonl import JsonlOutput, read_jsonl
from ww_callbacks.report import Report

QUICK, FULL = 150, 10_000
ODD = (
    *(
        None,
        True,
        "x",
        "",
        -1,
        0,
        1.5,
        10**30,
        10**400,
        float("nan"),
        float("inf"),
        -float("inf"),
        1e308,
        -1e308,
        5e-324,
    ),
    *([], [1, 2], {}, {"a": 1}, [None], "\ud800", "\x1b[2J", "over-trained", "failed", 2**63, "1e5", [[[]]]),
)


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> list[str]:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("run") / "h.jsonl"
    output = JsonlOutput(path)
    for step in (0, 10, 20):
        weights = {"fc": rng.standard_normal((60, 50)), "b": np.ones(3), "n": np.full((9, 9), np.nan)}
        weights |= {f"experts.{i}.w": rng.standard_normal((20, 10)) for i in range(4)}
        layers = [replace(layer, step=step) for layer in ww.analyze(weights, randomize=step == 20)]
        output.write(Report(tuple(layers), step), {}, 1.0)
    output.close()
    return path.read_text().splitlines()


def changed(lines: list[str], choose: random.Random) -> bytes:
    """The lines with a few changes of values, of the structure or of bytes."""
    values = [json.loads(line) for line in lines]
    for _ in range(choose.choice([1, 1, 2, 5])):
        report = choose.choice(values)
        odd = copy.deepcopy(choose.choice(ODD))
        match choose.randrange(6):
            case 0:
                report[choose.choice(["step", "layers", "wall_time"])] = odd
            case 1 | 2 if isinstance(report.get("layers"), list) and report["layers"]:
                layer = choose.choice(report["layers"])
                if isinstance(layer, dict) and layer:
                    layer[choose.choice(list(layer))] = odd
            case 3 if isinstance(report.get("layers"), list):
                report["layers"].insert(0, odd)
            case 4 if isinstance(report.get("layers"), list) and report["layers"]:
                layer = choose.choice(report["layers"])
                if isinstance(layer, dict) and isinstance(layer.get("histogram"), dict):
                    layer["histogram"][choose.choice(["low", "high", "counts", "rand_counts"])] = odd
            case _:
                report.pop(choose.choice(list(report)), None) if report else None
    data = bytearray("\n".join(map(json.dumps, values)).encode() + b"\n")
    for _ in range(choose.choice([0, 0, 1, 3])):
        at = choose.randrange(len(data))
        match choose.randrange(5):
            case 0:
                data[at] = choose.randrange(256)
            case 1:
                del data[at:]
                break
            case 2:
                data[at:at] = choose.choice(
                    [b"\n", b"\0\0", b"\xff", b"\xef\xbb\xbf", b"[" * 300_000, b"NaN", b"null\n"]
                )
            case 3:
                del data[at : at + choose.randrange(1, 200)]
            case _:
                data[at : at + 1] = choose.choice([b"{", b"}", b'"', b",", b"-", b"1e999", b"9" * 5000])
        if not data:
            break
    return bytes(data)


def refusal(path) -> str:
    """What the refusal of a file says; empty if it was read, and can be shown and judged."""
    try:
        history = read_jsonl(path)
    except ValueError as error:
        return str(error)
    if len(history):
        assert str(history[-1])
        assert all(str(finding).isprintable() for finding in history.findings)
        history[-1].summary()
    return ""


@pytest.mark.parametrize("number", [QUICK, pytest.param(FULL, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_changed_lines_are_read_or_refused(tmp_path, lines, number):
    found = Counter()
    for index in range(number):
        (tmp_path / "h.jsonl").write_bytes(changed(lines, random.Random(f"lines {index}")))
        says = refusal(tmp_path / "h.jsonl")
        assert not says or says.startswith(f"{tmp_path / 'h.jsonl'}, line "), f"input {index}: {says}"
        assert len(says) < 2000
        found["refused" if says else "read"] += 1
    print(dict(found))
    assert min(found["read"], found["refused"]) > number / 20


LINES = {
    "a step that is a text": b'{"step": "3", "layers": []}',
    "a step that is not finite": b'{"step": NaN, "layers": []}',
    "a step that is huge": b'{"step": 1' + b"0" * 400 + b', "layers": []}',
    "numbers for layers": b'{"step": 3, "layers": [1, 2]}',
    "null everywhere": b'{"step": null, "layers": null}',
    "a number for a record": b"3",
    "200,000 brackets": b"[" * 200_000,
    "brackets in a record": b'{"step": 1, "layers": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "bytes of zero": b"\0" * 100,
    "no UTF-8": b'{"step": 3, "layers": "\xff"}',
    "a name that is a number": b'{"step": 3, "layers": [{"name": 1, "kind": "x"}]}',
    "an infinite column": b'{"step": 3, "layers": [{"name": "a", "kind": "x", "alpha": 1e999}]}',
    "an unknown status": b'{"step": 3, "layers": [{"name": "a", "kind": "x", "status": "good"}]}',
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_wrong_line_is_one_error_with_file_and_line(tmp_path, lines, line, capsys):
    path = tmp_path / "h.jsonl"
    path.write_bytes(lines[0].encode() + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match=r"h\.jsonl, line 2: not a report: ") as caught:
        read_jsonl(path)
    assert len(str(caught.value)) < 1000
    assert main(["watch", str(path), "--once"]) == 2
    assert "line 2: not a report" in capsys.readouterr().err


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path, lines):
    (tmp_path / "h.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(line.encode() for line in lines) + b"\r\n")
    assert read_jsonl(tmp_path / "h.jsonl").steps == [0, 10, 20]


def test_a_line_that_is_too_long_is_refused_without_being_parsed(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 100_000)
    (tmp_path / "h.jsonl").write_text(lines[0] + "\n" + '{"step": 1, "layers": ["' + "x" * 200_000 + '"]}\n')
    with pytest.raises(ValueError, match="line 2: not a report: longer than 100000 bytes"):
        read_jsonl(tmp_path / "h.jsonl")


def test_a_character_that_is_cut_at_the_end_is_ignored(tmp_path, lines):
    (tmp_path / "h.jsonl").write_bytes(lines[0].encode() + b'\n{"step": 9, "layers": [{"name": "\xc3')
    assert read_jsonl(tmp_path / "h.jsonl").steps == [0]
