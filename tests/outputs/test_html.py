import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.outputs import html

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
def comparison():
    models = {f"<m{i}>": {"fc": model(i)["good"]} for i in range(4)}
    return ww.compare(models, quality={name: index for index, name in enumerate(models)})


@pytest.fixture(scope="module")
def text(comparison):
    return html.comparison_page(comparison, "a <b> comparison")


def test_a_comparison_is_a_page(text):
    page = Page(text)
    assert page.tags.count("table") == 2
    assert page.tags.count("script") == 1
    assert "b" not in page.tags
    assert "<m0>" in page.text
    assert "a <b> comparison" in page.text
    assert "n = 4 models" in page.text
    assert not any(name.startswith("on") for name, _ in page.attributes)


def test_the_file_needs_nothing_else(text):
    page = Page(text)
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert sources
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert "default-src 'none'" in text
    assert not re.search(r"https?://", text)


def test_a_notebook_shows_the_table(report):
    page = Page(report._repr_html_())
    assert page.tags.count("table") == 1
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_it_without_an_error_and_sorts_the_table(comparison, text, tmp_path):
    click = """
    const errors = []; window.onerror = message => errors.push(message);
    const buttons = [...document.querySelectorAll("th button")];
    const button = buttons.find(each => each.textContent === "alpha");
    const column = button.parentElement.cellIndex;
    const rows = button.closest("table").tBodies[0].rows;
    const cells = () => [...rows].map(row => row.cells[column].textContent).join(" ");
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
    alphas = sorted(report.mean("alpha") for report in comparison.reports.values())
    assert up.split() == [f"{alpha:.3f}" for alpha in alphas]
    assert down.split() == [f"{alpha:.3f}" for alpha in reversed(alphas)]
    assert (errors, loaded) == ("0", "true")
