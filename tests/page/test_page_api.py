"""What the page gets, over HTTP and in one file."""

import contextlib
import http.client
import json
import re
import shutil
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from badnames import BAD_NAMES
from onefile import inflated, inlined
from recorded import STEPS, record

import ww_callbacks as ww
from ww_callbacks.outputs.tensorboard import TensorBoardOutput
from ww_callbacks.page.api import VERSION, Api
from ww_callbacks.page.runs import Runs
from ww_callbacks.page.server import PageServer
from ww_callbacks.page.single import page_file
from ww_callbacks.report import Report

REPORTS = STEPS // 10 + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    record(folder / "a")
    return folder


@contextlib.contextmanager
def serving(folder):
    """A server in a thread, and a function that asks it: path, headers → status, headers, body."""
    with PageServer(Api(Runs(folder), "title")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()

        def ask(path, method="GET", **headers):
            connection = http.client.HTTPConnection(*server.server_address, timeout=20)
            try:
                connection.request(method, path, headers=headers)
                answer = connection.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            finally:
                connection.close()

        try:
            yield ask
        finally:
            server.shutdown()
            thread.join(20)
            assert not thread.is_alive()


def test_the_page_asks_for_runs_a_run_a_column_and_a_cell(folder):
    with serving(folder) as ask:
        runs = json.loads(ask("/api/runs")[2])
        assert [(run["id"], run["reports"], run["step"]) for run in runs["runs"]] == [("a", REPORTS, STEPS)]
        run = json.loads(ask("/api/run?id=a&from=2")[2])
        assert run["steps"] == list(range(20, STEPS + 1, 10))
        column = np.frombuffer(ask("/api/column?id=a&name=alpha&from=2")[2], "<f4")
        assert column.size == (REPORTS - 2) * len(run["layers"])
        cell = json.loads(ask("/api/cell?id=a&layer=0&report=3")[2])
        assert cell["values"]["alpha"] == pytest.approx(column.reshape(REPORTS - 2, -1)[1, 0])


def one_report(folder, step, alpha, names=("fc",)):
    layers = [ww.LayerReport(name=name, kind="Linear", status="ok", alpha=alpha, step=step) for name in names]
    output = TensorBoardOutput(folder / "ww")
    output.write(Report(tuple(layers), step), {"ww/alpha": alpha}, 1.0)
    output.close()


@pytest.mark.parametrize("how", ["the steps go back", "the folder is written anew"])
def test_columns_and_cells_say_which_version_of_a_restarted_run_they_belong_to(tmp_path, monkeypatch, how):
    monkeypatch.setattr("ww_callbacks.page.runs.LOOK", 0.0)
    one_report(tmp_path / "a", 10, 2.0)
    with serving(tmp_path) as ask:

        def versions():
            """Of the run, a column and a cell, with the alpha of the last two."""
            _, headers, column = ask("/api/column?id=a&name=alpha")
            cell = json.loads(ask("/api/cell?id=a&layer=0&report=0")[2])
            run = json.loads(ask("/api/run?id=a")[2])
            return (run["version"], headers[VERSION], cell["version"]), np.frombuffer(column, "<f4")[0], cell["values"]

        ask("/api/run?id=a")
        (before, *others), _, _ = versions()
        assert others == [before, before]
        if how == "the folder is written anew":
            shutil.rmtree(tmp_path / "a")
            assert ask("/api/run?id=a")[0] == 404
        one_report(tmp_path / "a", 10, 4.0)
        ask("/api/run?id=a")
        (after, *others), column, values = versions()
        assert others == [after, after] != [before, before]
        assert (column, values["alpha"]) == (4, 4)


def test_a_layer_that_comes_late_makes_another_version_as_all_rows_are_wider(tmp_path):
    answer = Api(Runs(tmp_path), "title").answer
    one_report(tmp_path, 10, 2.0)
    before = json.loads(answer("api/run", "id=.").body)["version"]
    one_report(tmp_path, 20, 3.0, names=("fc", "late"))
    assert json.loads(answer("api/run", "id=.&from=1").body)["version"] != before
    column = np.frombuffer(answer("api/column", "id=.&name=alpha").body, "<f4")
    np.testing.assert_array_equal(column.reshape(2, 2), [[2, np.nan], [3, 3]])


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "localhost.evil.example"])
def test_another_host_header_is_refused(folder, host):
    with serving(folder) as ask:
        status, _, body = ask("/api/runs", Host=host)
        assert (status, body) == (403, b"this server answers requests to localhost only")
        assert ask("/api/runs", Host="localhost:9999")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/secret", "/api/run?id=../outside", "/api/run?id=%2fetc", "/api/cell?id=..&layer=0"],
)
def test_paths_outside_the_folder_are_refused(folder, path):
    (folder.parent / "secret").write_text("secret")
    with serving(folder) as ask:
        status, _, body = ask(path)
        assert status == 404
        assert b"secret" not in body


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("api/column?id=a&name=nothing", "there is no column 'nothing'"),
        ("api/column?id=b&name=alpha", "there is no run 'b' in the folder"),
        ("api/cell?id=a&layer=99&report=0", "there is no layer 99 or no report 0"),
        ("api/cell?id=a&layer=x&report=0", "layer: expected a number, got 'x'"),
        ("api/run?id=a&from=-1", "from: expected a number, got '-1'"),
        ("api/nothing?", "there is no such page"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(folder, query, says):
    path, _, words = query.partition("?")
    answer = Api(Runs(folder), "title").answer(path, words)
    assert (answer.status, answer.body.decode()) == (404, says)


def test_the_page_may_load_and_run_only_its_own_files(folder):
    with serving(folder) as ask:
        status, headers, body = ask("/")
        assert status == 200
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        addresses = re.findall(rb'(?:src|href)="([^"]+)"', body)
        assert sorted(addresses) == [b"data:,", b"page.css", b"page.js"]  # an empty icon, so that none is asked for
        assert all(ask(f"/{name}")[0] == 200 for name in ("page.css", "page.js"))
        assert ask("/", method="POST")[0] == 501


def test_large_answers_are_compressed_for_those_who_ask(folder):
    with serving(folder) as ask:
        _, headers, body = ask("/api/run?id=a", **{"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert json.loads(zlib.decompress(body, 31))["steps"][-1] == STEPS


def test_two_servers_get_two_ports_and_one_port_twice_is_an_error(folder):
    api = Api(Runs(folder), "title")
    with PageServer(api) as one, PageServer(api) as two:
        assert one.url != two.url
        port = one.server_address[1]
        with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 cannot be used: .*; leave --port out"):
            PageServer(api, port)


def test_an_empty_folder_and_nan_everywhere_are_answers(tmp_path):
    answer = Api(Runs(tmp_path), "title").answer
    assert json.loads(answer("api/runs").body)["runs"] == []
    output = TensorBoardOutput(tmp_path / "ww")
    layer = ww.LayerReport(name="fc", kind="Linear", status="failed", skip_reason="non_finite", reason="NaN", step=1)
    output.write(Report((layer,), 1), {"ww/alpha": float("nan")}, 1.0)
    output.close()
    answer = Api(Runs(tmp_path), "title").answer
    run = json.loads(answer("api/run", "id=.").body)
    assert run["steps"] == [1]
    assert np.isnan(np.frombuffer(answer("api/column", "id=.&name=alpha").body, "<f4")).all()
    assert json.loads(answer("api/cell", "id=.&layer=0&report=0").body)["words"] == "failed: NaN"


def test_one_file_holds_the_run_its_columns_and_its_spectra(folder):
    runs = Runs(folder)
    run = runs.get("a").run
    data = inlined(page_file({"a": run}, "my run"))
    assert data["run"]["a"]["steps"] == run.answer()["steps"]
    assert data["run"]["a"]["cells"] == list(range(REPORTS))
    alpha = np.frombuffer(inflated(data["columns"]["a"]["alpha"]), "<f4").reshape(REPORTS, -1)
    np.testing.assert_allclose(alpha, run.column("alpha"), rtol=2e-4)
    cells = json.loads(inflated(data["cells"]["a"]["3"]))
    assert cells[0]["histogram"]["counts"] == list(run.cell(0, 3)["histogram"]["counts"])


def test_one_file_of_a_long_run_is_bounded(folder):
    run = Runs(folder).get("a").run
    data = inlined(page_file({"a": run}, "my run", most=4000))
    assert 0 < sum(map(len, data["columns"]["a"].values())) <= 4000
    assert [column["name"] for column in data["run"]["a"]["columns"]] == [
        column["name"] for column in run.answer()["columns"] if column["name"] in data["columns"]["a"]
    ]
    assert "alpha" in data["columns"]["a"]
    cells = data["run"]["a"]["cells"]
    assert 0 < len(cells) < REPORTS
    assert cells[-1] == REPORTS - 1
    assert sum(map(len, data["cells"]["a"].values())) <= 4000


def test_names_cannot_leave_the_data_of_one_file(tmp_path):
    output = TensorBoardOutput(tmp_path / "ww")
    names = (*BAD_NAMES, "</script><script>alert(1)</script>", "<!-- <script>")
    layers = tuple(ww.LayerReport(name=name, kind="Linear", alpha=2.0, step=1) for name in names)
    output.write(Report(layers, 1), {}, 1.0)
    output.close()
    page = page_file({".": Runs(tmp_path).get(".").run}, "</title><script>alert(1)</script>")
    assert page.count("<script") == 2
    assert "alert(1)</script>" not in page
    assert [layer["name"] for layer in inlined(page)["run"]["."]["layers"]] == list(names)
    Path(tmp_path / "page.html").write_text(page, encoding="utf-8")


def test_one_file_asks_for_nothing(folder):
    page = page_file({"a": Runs(folder).get("a").run}, "my run")
    assert "default-src 'none'" in page
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="([^"]*)"', page) == ["data:,"]
