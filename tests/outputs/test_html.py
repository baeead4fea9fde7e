import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.outputs import html
from ww_callbacks.report import LayerReport, Report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu")


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


def model(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    trapped = rng.standard_normal((120, 60))
    trapped[3, 4] = 60.0
    return {
        "good": rng.standard_t(3, (120, 60)),
        "trapped": trapped,
        "<script>alert(1)</script>": rng.standard_normal((100, 50)),
        'quo"te & $x$': rng.standard_normal((100, 50)),
        "zero": np.zeros((40, 40)),
    }


@pytest.fixture(scope="module")
def report():
    return ww.analyze(model(), baseline=model(1))


@pytest.fixture(scope="module")
def text(report):
    return html.report_page(report, "a <b> model")


def test_names_and_titles_stay_text(text):
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "b" not in page.tags[: page.tags.index("h1")]
    assert "<script>alert(1)</script>" in page.text
    assert 'quo"te & $x$' in page.text
    assert "a <b> model" in page.text
    assert not any(name.startswith("on") for name, _ in page.attributes)


def test_the_file_needs_nothing_else(text):
    page = Page(text)
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert sources
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert "default-src 'none'" in text
    assert not re.search(r"https?://", text)


def test_it_holds_summary_warnings_table_and_a_picture_per_spectrum(report, text):
    page = Page(text)
    assert page.tags.count("img") == 2 + sum(layer.histogram is not None for layer in report)
    assert page.tags.count("tr") == 1 + sum(layer.alpha is not None for layer in report)
    assert "1 correlation trap: very large weights" in page.text
    assert "random signs could give this spectrum" in page.text
    assert "all weights are zero" in page.text
    assert f"{report.summary()['alpha']:.2f}" in page.text
    assert "Δalpha" in page.text


def test_findings_come_first_and_alarms_are_bold(report, text):
    page = Page(text)
    assert page.text.index("Findings") < page.text.index("Layer by layer") < page.text.index("Analysed layers")
    assert all(str(finding) in page.text for finding in report.findings)
    alarms = [finding for finding in report.findings if finding.is_alarm]
    assert "trap_elements" in [alarm.kind for alarm in alarms]
    assert all(f"<li><b>{html.escape(str(alarm))}</b></li>" in text for alarm in alarms)


def test_more_layers_than_pictures_are_said(report, monkeypatch):
    monkeypatch.setattr(html, "MAX_PICTURES", 1)
    page = Page(html.report_page(report))
    assert page.tags.count("img") == 3
    assert "3 more are in the table only" in page.text


def test_a_report_without_a_fit_is_a_page_too():
    page = Page(html.report_page(Report((LayerReport(name="bias", kind="x", status="skipped", reason="no matrix"),))))
    assert "skipped: bias (no matrix)" in page.text
    assert "img" not in page.tags


def test_a_comparison_is_a_page():
    comparison = ww.compare(
        {f"<m{i}>": {"fc": model(i)["good"]} for i in range(4)}, quality={f"<m{i}>": i for i in range(4)}
    )
    page = Page(html.comparison_page(comparison))
    assert page.tags.count("table") == 2
    assert "<m0>" in page.text
    assert "n = 4 models" in page.text


def test_a_notebook_shows_the_table(report):
    page = Page(report._repr_html_())
    assert page.tags.count("table") == 1
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_it_without_an_error_and_sorts_the_table(report, text, tmp_path):
    click = """
    const errors = []; window.onerror = message => errors.push(message);
    const buttons = [...document.querySelectorAll("th button")];
    const button = buttons.find(each => each.textContent === "alpha");
    const column = button.parentElement.cellIndex;
    const cells = () => [...document.querySelectorAll("tbody tr")].map(row => row.cells[column].textContent).join(" ");
    button.click(); const up = cells(); button.click();
    document.body.innerHTML = "<p>" + [up, cells(), errors.length,
      [...document.images].every(image => image.naturalWidth > 0)].join("|") + "</p>";
    """
    eager = text.replace(' loading="lazy"', "").replace(
        "</body>", f"<script>window.onload = () => {{ {click} }}</script></body>"
    )
    (tmp_path / "page.html").write_text(eager)
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}/profile", "--dump-dom", Path(tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    up, down, errors, loaded = re.search(r"<p>(.*)</p>", done.stdout).group(1).split("|")
    alphas = sorted(layer.alpha for layer in report if layer.alpha is not None)
    assert up.split() == [f"{alpha:.2f}" for alpha in alphas]
    assert down.split() == [f"{alpha:.2f}" for alpha in reversed(alphas)]
    assert (errors, loaded) == ("0", "true")
