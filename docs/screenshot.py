"""Takes the picture of TensorBoard that the README shows.

Needs selenium, Chromium with its driver, and a run of examples/lightning_mnist.py:

    python docs/screenshot.py lightning_logs docs/images/tensorboard.png
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

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
    "--disable-webgl",  # TensorBoard then draws lines that a screenshot shows
    "--disable-webgl2",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logdir")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--filter", default=FILTER, help="regular expression of the tags to show")
    parser.add_argument("--size", default="1300x960")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", arguments.logdir, "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = _address(server)
        _wait_for_tags(address)
        _take(address, arguments.filter, arguments.size, arguments.picture)
    finally:
        server.terminate()
        server.wait()


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    for line in server.stderr:
        found = re.search(r"http://localhost:\d+/", line)
        if found:
            return found.group()
    raise RuntimeError("TensorBoard did not start")


def _wait_for_tags(address: str) -> None:
    for _ in range(60):
        with urllib.request.urlopen(f"{address}data/plugin/timeseries/tags") as answer:
            if "ww/alpha" in answer.read().decode():
                return
        time.sleep(0.5)
    raise RuntimeError("TensorBoard shows no ww/alpha")


def _take(address: str, tags: str, size: str, picture: Path) -> None:
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS, f"--window-size={size.replace('x', ',')}", f"--user-data-dir={tempfile.mkdtemp()}"]:
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        browser.get(address)
        browser.execute_script("localStorage.setItem('_tb_global_settings', arguments[0])", json.dumps(SETTINGS))
        browser.get(f"{address}?tagFilter={urllib.request.quote(tags)}#timeseries")
        WebDriverWait(browser, 30).until(
            lambda b: len(b.find_elements(By.CSS_SELECTOR, "line-chart path, line-chart svg path")) > 3
        )
        time.sleep(3)
        browser.save_screenshot(str(picture))
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
