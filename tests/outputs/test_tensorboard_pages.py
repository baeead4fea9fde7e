import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww

pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--virtual-time-budget=30000",
    "--window-size=1300,1600",
    "--enable-logging=stderr",
    "--dump-dom",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]

PAGES = {
    "timeseries": "ww/alpha",
    "scalars": "ww/alpha",
    "images": "correlation_flow",
    "histograms": "log10_eigenvalues",
    "distributions": "log10_eigenvalues",
    "text": "what is noticeable",
    "custom_scalars": "ww_callbacks",
}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """TensorBoard on a run of ours."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    weights = {f"fc{i}": rng.standard_normal((120, 60)) for i in range(4)}
    with ww.Monitor(weights, every_n_steps=1, log_dir=folder, executor="sync") as monitor:
        for step in range(1, 4):
            weights["fc0"] += 0.02
            monitor.step(step)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = (re.search(r"http://localhost:\d+/", line) for line in server.stderr)
        yield next(found.group() for found in lines if found)
    finally:
        server.terminate()
        server.wait(20)
        server.stderr.close()


def test_every_plugin_of_ours_is_active_and_lists_our_tags(address):
    for path, expected in (
        ("data/plugin/scalars/tags", "ww/alpha_median"),
        ("data/plugin/images/tags", "ww/alpha_map"),
        ("data/plugin/histograms/tags", "ww_layer/log10_eigenvalues/000.fc0"),
        ("data/plugin/text/tags", "ww/layers"),
        ("data/plugin/custom_scalars/layout", "alpha by layer"),
    ):
        with urllib.request.urlopen(address + path, timeout=60) as answer:
            assert expected in answer.read().decode(), path


@pytest.mark.parametrize("page", PAGES)
def test_a_browser_shows_our_tags_and_no_error(address, page, tmp_path):
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}/profile", f"{address}#{page}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert PAGES[page] in done.stdout
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "Uncaught" in line]
    assert not errors
    assert "No dashboards are active" not in done.stdout
    assert Path(tmp_path / "profile").is_dir()
