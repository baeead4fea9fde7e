import asyncio
import json
import re
import shutil
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

import ww_callbacks as ww

pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")
websocket_connect = pytest.importorskip("tornado.websocket").websocket_connect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,1600", "--remote-debugging-port=0")
DEEP_TEXT = """(function text(node) {
  const own = node.nodeType === Node.TEXT_NODE ? node.textContent : "";
  return own + [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes].map(text).join(" ");
})(document.body)"""
"""All text of a page, that of shadow trees too."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]

PAGES = {
    "timeseries": "ww_layer",
    "scalars": "ww/alpha",
    "images": "correlation_flow",
    "histograms": "log10_eigenvalues",
    "distributions": "log10_eigenvalues",
    "text": "findings",
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
            weights["fc0"] += 0.2
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
        ("data/plugin/custom_scalars/layout", "alpha by layer: 4 of 4"),
    ):
        with urllib.request.urlopen(address + path, timeout=60) as answer:
            assert expected in answer.read().decode(), path


@pytest.mark.parametrize("page", PAGES)
def test_a_browser_shows_our_tags_and_no_error(address, page, tmp_path):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}/profile", "about:blank"]
    browser = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        found = (re.search(r"ws://[^/]+/", line) for line in browser.stderr)
        port = next(match for match in found if match).group().replace("ws:", "http:")
        with urllib.request.urlopen(f"{port}json/list", timeout=30) as answer:
            tab = next(each for each in json.load(answer) if each["type"] == "page")
        text, errors = asyncio.run(look(tab["webSocketDebuggerUrl"], f"{address}#{page}", PAGES[page]))
    finally:
        browser.kill()
        browser.wait(20)
        browser.stderr.close()
    assert PAGES[page] in text
    assert not errors


async def look(tab, url, word):
    """What a page says once it says ``word``, or after a minute, and the errors in its scripts."""
    connection = await websocket_connect(tab, max_message_size=2**26)
    errors, number = [], 0

    async def ask(method, **parameters):
        nonlocal number
        number += 1
        await connection.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await connection.read_message())
            if message.get("method") == "Runtime.exceptionThrown":
                errors.append(message["params"]["exceptionDetails"])
            if message.get("id") == number:
                return message["result"]

    await ask("Runtime.enable")
    await ask("Page.navigate", url=url)
    text = ""
    for _ in range(600):
        await asyncio.sleep(0.1)
        text = (await ask("Runtime.evaluate", expression=DEEP_TEXT))["result"].get("value", "")
        if word in text:
            break
    connection.close()
    return text, errors
