"""The tab of TensorBoard, asked for as TensorBoard's own page does."""

import json
import subprocess
import sys

import pytest
from recorded import STEPS, record
from tensorboard.plugins import base_plugin
from werkzeug.test import Client

from ww_callbacks.outputs.spectra_protos import PLUGIN
from ww_callbacks.page.api import VERSION

application = pytest.importorskip(
    "tensorboard.backend.application", reason="the oldest TensorBoard needs six, and does not install it"
)


def client(logdir):
    """A client of TensorBoard's application with this plugin alone."""
    from ww_callbacks.page.plugin import SpectraPlugin

    plugin = SpectraPlugin(base_plugin.TBContext(logdir=str(logdir)))
    return plugin, Client(application.TensorBoardWSGI([plugin]))


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    record(folder / "version_0")
    return folder


def test_the_tab_serves_the_page_and_its_data(logs):
    plugin, ask = client(logs)
    assert plugin.is_active()
    prefix = f"/data/plugin/{PLUGIN}"
    assert b"export function render()" in ask.get(f"{prefix}/index.js").data
    assert ask.get(f"{prefix}/page.js").status_code == 200
    (run,) = json.loads(ask.get(f"{prefix}/api/runs").data)["runs"]
    assert (run["id"], run["step"]) == ("version_0", STEPS)
    assert json.loads(ask.get(f"{prefix}/api/run?id=version_0&from=0").data)["steps"][-1] == STEPS
    column = ask.get(f"{prefix}/api/column?id=version_0&name=alpha")
    assert len(column.data) % 4 == 0
    assert column.headers[VERSION] == json.loads(ask.get(f"{prefix}/api/run?id=version_0").data)["version"]
    assert ask.get(f"{prefix}/api/run?id=../..").status_code == 404


@pytest.mark.parametrize("logdir", ["", "gs://bucket/logs", "nothing"])
def test_without_a_local_folder_with_results_the_tab_is_inactive(logdir, tmp_path):
    plugin, ask = client(tmp_path / logdir if logdir == "nothing" else logdir)
    assert not plugin.is_active()
    assert ask.get(f"/data/plugin/{PLUGIN}/api/runs").status_code == 404


def test_tensorboard_finds_the_plugin_by_its_entry_point():
    code = (
        "from tensorboard import default\n"
        f"print(any(plugin.plugin_name == {PLUGIN!r} for plugin in default.get_dynamic_plugins()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout.strip() == "True", done.stderr
