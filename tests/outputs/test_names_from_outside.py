"""Names of layers and models may hold anything. They are shown, never obeyed, and never too wide."""

import csv
import html
import io
import json
import re
import struct
import unicodedata

import numpy as np
import pytest
from badnames import BAD_NAMES

import ww_callbacks as ww
from ww_callbacks.cli.analyze import WRITERS
from ww_callbacks.cli.compare import WRITERS as COMPARISON_WRITERS
from ww_callbacks.outputs.html import report_fragment
from ww_callbacks.outputs.jsonl import JsonlOutput, read_jsonl
from ww_callbacks.outputs.panels import layer_text
from ww_callbacks.printable import columns_of
from ww_callbacks.progress import progress_bar
from ww_callbacks.report import Finding, LayerReport, Report
from ww_callbacks.report.keys import layer_key
from ww_callbacks.signals.wording import Named, text_of

WIDEST = 400


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((60, 50)), np.ones(3), np.full((9, 9), np.nan)]  # analysed, skipped, failed
    return {name: arrays[index % 3] for index, name in enumerate(BAD_NAMES)}


@pytest.fixture(scope="module")
def report() -> Report:
    return ww.analyze(weights(), randomize=False)


def assert_harmless(text: str) -> None:
    odd = {each for each in text if not each.isprintable() and each != "\n"}
    assert not odd, sorted(map(ascii, odd))
    text.encode()


def test_tables_and_sentences_are_harmless_and_narrow(report):
    table = WRITERS["table"](report, "title\x1b")
    assert_harmless(table)
    rows = table.splitlines()
    fitted = [layer for layer in report if layer.alpha is not None]
    assert max(map(columns_of, rows[: len(fitted) + 1])) < WIDEST
    for sentence in [*map(str, report.findings), *report.advice()]:
        assert_harmless(sentence)
        assert len(sentence) <= 2000


def test_the_columns_of_a_table_stay_aligned(report):
    head, *rows = str(report).splitlines()[: sum(layer.alpha is not None for layer in report) + 1]
    at = head.index("kind")
    for row in rows:
        width, cut = 0, 0
        while width < at:
            width += columns_of(row[cut])
            cut += 1
        while row[cut : cut + 1] and unicodedata.category(row[cut]) == "Mn":
            cut += 1
        assert row[cut:].startswith("matrix  "), row


def test_no_name_is_lost_and_each_is_found_by_its_real_name(report):
    shown = str(report)
    assert len({line.split("  ")[0] for line in shown.splitlines()}) == len(shown.splitlines())
    for name in BAD_NAMES:
        assert report[name].name == name
    assert [layer["name"] for layer in json.loads(WRITERS["json"](report, "m"))["layers"]] == list(BAD_NAMES)


def test_csv_holds_no_formula_and_gives_the_names_back(report):
    text = WRITERS["csv"](report, "m")
    assert_harmless(text)
    rows = list(csv.DictReader(io.StringIO(text)))
    cells = [row["name"] for row in rows]
    assert not any(cell.startswith(("=", "+", "-", "@", "\uff1d")) for cell in cells)
    found = [cell.removeprefix("'").encode("latin-1", "backslashreplace").decode("unicode_escape") for cell in cells]
    assert found == list(BAD_NAMES)


def test_html_shows_names_as_text(report):
    fragment = report_fragment(report)
    assert_harmless(html.unescape(fragment))
    assert "<script>" not in fragment
    few = Report(tuple(report[name] for name in ("<script>alert(1)</script>", "line\nbreak\ttab\rreturn")))
    page = WRITERS["html"](few, "<b>title\x1b\udc80")
    assert_harmless(html.unescape(re.sub(r"base64,[^\"]*", "", page)))
    assert page.count("<script>") == 1
    assert "<b>title" not in page


def test_markdown_shows_names_as_text(report):
    text = layer_text(report)
    assert_harmless(text)
    rendered = pytest.importorskip("markdown").markdown(text, extensions=["tables"])
    assert not re.search(r"<(a|script|strong|em|h1|img)\b", rendered)
    assert rendered.count("<tr>") == text.count("\n|")  # a row for each layer, and the head


def test_comparisons_show_names_of_models_as_text():
    pytest.importorskip("matplotlib")
    model = {"fc": np.random.default_rng(0).standard_normal((60, 50))}
    names = (*BAD_NAMES[:6], "$x^{2$_y", "_hidden", "100%s {0} {task}")
    comparison = ww.compare(dict.fromkeys(names, model), randomize=False)
    for kind in ("table", "csv", "html"):
        text = COMPARISON_WRITERS[kind](comparison, ", ".join(names))
        assert_harmless(html.unescape(re.sub(r"base64,[^\"]*", "", text)))
    assert list(json.loads(COMPARISON_WRITERS["json"](comparison, ""))["findings"]) == list(names)
    from ww_callbacks.outputs.figures import draw_correlation_flows

    assert len(draw_correlation_flows(comparison.reports).get_legend().get_texts()) == len(names)


def test_keys_of_loggers_differ_and_are_short():
    keys = [layer_key("log10_eigenvalues", index, name) for index, name in enumerate(BAD_NAMES)]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9_./-]{1,250}", key) for key in keys)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_figures_draw_each_name():
    pytest.importorskip("matplotlib")
    from ww_callbacks.outputs.figures import draw_correlation_flow, plain, render

    layers = tuple(LayerReport(name=name, kind="Linear", alpha=2.0) for name in BAD_NAMES)
    assert render(lambda ax: draw_correlation_flow(Report(layers), ax))
    for name in BAD_NAMES:
        assert_harmless(plain(name))


def events(data: bytes):
    """The events of a file; tensorboard's own reader loads TensorFlow."""
    from tensorboard.compat.proto.event_pb2 import Event

    while data:
        (size,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]


def test_a_monitor_writes_each_layer_to_tensorboard_and_json_lines(tmp_path):
    pytest.importorskip("tensorboard")
    monitor = ww.Monitor(
        weights(), every_n_steps=1, executor="thread", log_dir=tmp_path, jsonl=True, log_every_layer=True, figures=False
    )
    with monitor:
        monitor.step(1)
    (file,) = (tmp_path / "ww").iterdir()
    tags = {value.tag for event in events(file.read_bytes()) for value in event.summary.value}
    fitted = [layer.name for layer in monitor.history[-1] if layer.alpha is not None]
    assert len([tag for tag in tags if tag.startswith("ww_layer/alpha/")]) == len(fitted) > 5
    assert [layer.name for layer in read_jsonl(tmp_path / "ww_history.jsonl")[-1]] == list(BAD_NAMES)
    for finding in monitor.history.findings:
        assert_harmless(str(finding))


def test_a_worker_process_returns_the_exact_names():
    monitor = ww.Monitor(weights(), every_n_steps=1)
    with monitor:
        monitor.step(1)
    assert monitor.history[-1].column("name") == list(BAD_NAMES)


def test_findings_name_layers_harmlessly():
    text = text_of("failed", [Named(name, {"reason": "r\x1b" + "z" * 9000}, 3) for name in BAD_NAMES[:3]])
    assert_harmless(text)
    assert len(text) < 2000
    finding = Finding(
        kind="failed", layers=("a",), since=0, step=0, evidence={}, confidence="certain", text="\x1b" * 5000
    )
    assert_harmless(str(finding))
    assert len(str(finding)) <= 2000


def test_progress_bars_show_braces_and_markup_as_they_are(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    for name in BAD_NAMES:
        with progress_bar(name, 2, shown=True) as bar:
            bar.begin(name)
            bar.end(1)
    shown = capsys.readouterr().err
    assert "100%s {0} {task}" in shown
    assert "[red]rich[/] :smile: [/]" in shown
    assert "\x1b]0;" not in shown
    assert "\x07" not in shown


def test_messages_are_bounded():
    many = Report(tuple(LayerReport(name=f"layer.{index}" * 50, kind="x") for index in range(1000)))
    with pytest.raises(KeyError, match="and 980 more") as caught:
        many["missing\x1b"]
    assert len(str(caught.value)) < 3000
    assert "\x1b" not in str(caught.value)
    with pytest.raises(ValueError, match="matches no layer") as found:
        ww.analyze(weights(), layers=["nothing\x1b"])
    assert_harmless(str(found.value))


def test_a_name_in_a_warning_is_harmless():
    from ww_callbacks.checks import warn

    with pytest.warns(RuntimeWarning, match="ww_callbacks: ") as caught:
        warn("layer a\x1b[2J\n" + "z" * 10_000)
    assert_harmless(str(caught[0].message))
    assert len(str(caught[0].message)) < 2100


def test_lines_of_json_keep_lone_surrogates(tmp_path):
    output = JsonlOutput(tmp_path / "h.jsonl")
    output.write(Report((LayerReport(name="s\ud800", kind="x", step=1),), 1), {}, 0.0)
    output.close()
    assert read_jsonl(tmp_path / "h.jsonl")[0]["s\ud800"].name == "s\ud800"
