"""The requests of the page and their answers, for the server and for TensorBoard."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from ww_callbacks.page.columns import page_columns
from ww_callbacks.page.files import FILES, TEXT, static
from ww_callbacks.page.runs import Runs
from ww_callbacks.printable import quoted, shown_text

JSON, BINARY = "application/json", "application/octet-stream"
VERSION = "X-Run-Version"
"""Header of a column: the version of the run that it belongs to."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy: the page loads nothing from elsewhere and runs no script in a name."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Attributes:
        body: its bytes.
        kind: content type.
        status: of HTTP.
        headers: others that belong to the answer.
    """

    body: bytes
    kind: str = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class _BadRequestError(Exception):
    """A request that cannot be answered, with the reason."""


class Api:
    """Answers the requests of the page. May be called from several threads.

    Args:
        runs: to show.
        title: of the page.
    """

    def __init__(self, runs: Runs, title: str) -> None:
        self._runs, self._title = runs, title
        self._lock = threading.Lock()
        self._routes: Mapping[str, Callable[[Mapping[str, str]], Answer]] = {
            "api/runs": self._list,
            "api/run": self._run,
            "api/column": self._column,
            "api/cell": self._cell,
        }

    @property
    def has_results(self) -> bool:
        """Whether any run has results of ours."""
        with self._lock:
            return any(files.is_ours for _, files, _ in self._runs.listed())

    def answer(self, path: str, query: str = "") -> Answer:
        """The answer to a request.

        Args:
            path: below that of the page, without a slash at the beginning.
            query: what follows the question mark.
        """
        name = path or "index.html"
        if name in FILES:
            return Answer(static(name), FILES[name])
        route = self._routes.get(path)
        if route is None:
            return Answer(b"there is no such page", TEXT, 404)
        words = {name: values[-1] for name, values in parse_qs(query, errors="replace").items()}
        try:
            with self._lock:
                return route(words)
        except _BadRequestError as error:
            return Answer(shown_text(str(error)).encode(), TEXT, 404)
        except (OSError, ValueError) as error:
            return Answer(shown_text(str(error)).encode("utf-8", "backslashreplace"), TEXT, 500)

    def _list(self, words: Mapping[str, str]) -> Answer:
        runs = []
        for identity, files, is_read in self._runs.listed():
            info = files.run.info() | {"id": identity, "problem": shown_text(files.problem)}
            runs.append(info if is_read else info | {"reports": None})
        runs.sort(key=lambda info: -info["updated"])
        return _json({"title": self._title, "live": True, "runs": runs, "problems": self._runs.problems})

    def _run(self, words: Mapping[str, str]) -> Answer:
        identity = words.get("id", "")
        try:
            files = self._runs.get(identity)
        except KeyError:
            raise _no_run(identity) from None
        answer = files.run.answer(_number(words, "from"))
        return _json(answer | {"id": identity, "problem": shown_text(files.problem)})

    def _column(self, words: Mapping[str, str]) -> Answer:
        identity, name = words.get("id", ""), words.get("name", "")
        if name not in page_columns():
            raise _BadRequestError(f"there is no column {quoted(name)}")
        try:
            run = self._runs.wide(identity)
        except KeyError:
            raise _no_run(identity) from None
        values = run.column(name, _number(words, "from")).astype("<f4")
        return Answer(values.tobytes(), BINARY, headers={VERSION: run.edition})

    def _cell(self, words: Mapping[str, str]) -> Answer:
        identity = words.get("id", "")
        try:
            run = self._runs.wide(identity)
            cell = run.cell(_number(words, "layer"), _number(words, "report"))
            return _json(cell | {"version": run.edition})
        except KeyError:
            raise _no_run(identity) from None
        except IndexError as error:
            raise _BadRequestError(str(error)) from None


def _no_run(identity: str) -> _BadRequestError:
    return _BadRequestError(f"there is no run {quoted(identity)} in the folder")


def _number(words: Mapping[str, str], name: str) -> int:
    text = words.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise _BadRequestError(f"{name}: expected a number, got {quoted(text)}")
    return int(text)


def _json(values: Mapping[str, Any]) -> Answer:
    return Answer(json.dumps(values, allow_nan=False, separators=(",", ":")).encode())
