"""The tab "Spectra" of TensorBoard: the page in its frame, fed from the event files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from ww_callbacks.outputs.spectra_protos import PLUGIN
from ww_callbacks.page.api import Api
from ww_callbacks.page.runs import Runs

TAB = "Spectra"
_PREFIX = f"/data/plugin/{PLUGIN}/"
_ENTRY = b"""export function render() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = "page.css";
  const script = document.createElement("script");
  script.src = "page.js";
  const app = document.createElement("div");
  app.id = "app";
  document.body.append(app);
  document.head.append(style, script);
}
"""


class SpectraPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Shows the page for the runs in the folder that TensorBoard was started with.

    TensorBoard keeps only a sample of what a plugin wrote, so the event files are read here, as ``ww-callbacks serve``
    reads them. Folders at URLs and several folders at once (``--logdir_spec``) are not read.

    Args:
        context: of TensorBoard.
    """

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        folder = Path(context.logdir) if context.logdir else None
        self._api = Api(Runs(folder), TAB) if folder is not None and folder.is_dir() else None

    def get_plugin_apps(self) -> Mapping[str, Callable[..., Any]]:
        """The routes below the one of the plugin."""
        return {"/index.js": self._answered, "/*": self._answered}

    def is_active(self) -> bool:
        """Whether there is any run of ours."""
        return self._api is not None and self._api.has_results

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """The name of the tab and the script that fills its frame."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name=TAB, disable_reload=True)

    def _answered(self, environment: dict[str, Any], start_response: Any) -> Any:
        request = wrappers.Request(environment)
        return self._answer(request)(environment, start_response)

    def _answer(self, request: wrappers.Request) -> Any:
        if self._api is None:
            return http_util.Respond(request, "the runs are not in a local folder", "text/plain", code=404)
        if request.path.endswith(f"/{PLUGIN}/index.js"):
            return http_util.Respond(request, _ENTRY, "text/javascript")
        path = request.path.rpartition(_PREFIX)[2]
        answer = self._api.answer(path, request.query_string.decode("ascii", "replace"))
        response = http_util.Respond(request, answer.body, answer.kind, code=answer.status)
        response.headers.extend(answer.headers)
        return response
