r"""Takes the TensorBoard screenshots of the README and the documentation.

Requires Chromium and a run of an example:

    python examples/lightning_mnist.py
    python docs/screenshot.py lightning_logs docs/images/tensorboard.png

    KERAS_BACKEND=tensorflow python examples/keras_mnist.py
    python docs/screenshot.py keras_logs docs/images/tensorboard_keras.png --runs 14 --size 1300x850 \
        --filter '^epoch_(acc|loss)|ww/alpha$|ww_layer/alpha/'

    python docs/screenshot.py lightning_logs docs/images/page_tensorboard.png --tab ww_spectra --size 1300x900
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILTER = "train_loss|val_accuracy|ww/alpha$|ww_layer/alpha/"
SETTINGS = {
    "scalarSmoothing": 0,
    "ignoreOutliers": False,
    "stepSelectorEnabled": False,
    "timeSeriesSettingsPaneOpened": False,
    "sideBarWidthInPercent": 0,
}
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-webgl",  # without WebGL, TensorBoard draws lines that a screenshot captures
    "--disable-webgl2",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
SECONDS = 60
DRAWN = {
    "timeseries": "document.querySelectorAll('line-chart path, line-chart svg path').length > 3",
    "ww_spectra": (
        "document.querySelector('iframe[src*=ww_spectra]')?.contentDocument.querySelector('.judgement') != null"
    ),
}
"""Tab of TensorBoard → whether it is drawn, in JavaScript."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logdir")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--filter", default=FILTER, help="regular expression for the tags to show")
    parser.add_argument("--tab", default="timeseries", choices=list(DRAWN))
    parser.add_argument("--size", default="1300x960")
    parser.add_argument("--runs", type=float, default=0, help="width of the list of runs, in percent")
    parser.add_argument("--browser", default="chromium")
    arguments = parser.parse_args()
    settings = SETTINGS | {"sideBarWidthInPercent": arguments.runs}
    size = [int(number) for number in arguments.size.split("x")]
    stored = f"localStorage.setItem('_tb_global_settings', {json.dumps(json.dumps(settings))})"
    with _tensorboard(arguments.logdir) as address, Browser(arguments.browser) as browser:
        page = f"{address}?tagFilter={urllib.request.quote(arguments.filter)}#{arguments.tab}"
        browser.open(page, *size, before=stored)
        browser.wait_for(DRAWN[arguments.tab])
        time.sleep(3)
        arguments.picture.write_bytes(browser.picture())


@contextlib.contextmanager
def _tensorboard(logdir: str) -> Iterator[str]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        lines = (re.search(r"http://localhost:\d+/", line) for line in server.stderr)
        address = next(found.group() for found in lines if found)
        _wait_for_tags(address)
        yield address
    finally:
        server.terminate()
        server.wait()


def _wait_for_tags(address: str) -> None:
    for _ in range(2 * SECONDS):
        with urllib.request.urlopen(f"{address}data/plugin/timeseries/tags") as answer:
            if "ww/alpha" in answer.read().decode():
                return
        time.sleep(0.5)
    raise RuntimeError("TensorBoard shows no ww/alpha")


class Browser:
    """Headless Chromium, controlled with JSON messages over two pipes.

    Args:
        program: name or path of Chromium.
    """

    def __init__(self, program: str) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = ["sh", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "sh", program, *FLAGS]
        command.append(f"--user-data-dir={self._folder.name}")
        self._process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = open(ours_in, "rb"), open(ours_out, "wb")  # noqa: SIM115
        self._count, self._session = 0, ""

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.terminate()
        self._process.wait()
        self._in.close()
        self._out.close()
        self._folder.cleanup()

    def open(self, page: str, width: int, height: int, before: str = "") -> None:
        """Open a page in a window of this size; ``before`` is JavaScript that runs before the page's own."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        self._call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self._call("Page.navigate", url=page)

    def picture(self) -> bytes:
        """What is in the window, as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot")["data"])

    def run(self, code: str) -> Any:
        """The value of an expression of JavaScript."""
        return self._call("Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")

    def wait_for(self, code: str) -> None:
        """Wait until an expression of JavaScript is true."""
        for _ in range(10 * SECONDS):
            if self.run(code):
                return
            time.sleep(0.1)
        raise RuntimeError(f"not within {SECONDS} seconds: {code}")

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Click a place in the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self._count:
                return answer["result"]

    def _read(self) -> bytes:
        text = bytearray()
        while (byte := self._in.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has exited")
            text += byte
        return bytes(text)


if __name__ == "__main__":
    main()
