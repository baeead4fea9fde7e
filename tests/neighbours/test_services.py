"""Runs sent to the real packages of W&B, trackio and MLflow, which keep them on the local disk."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from wandb_file import alerts, rows

import ww_callbacks as ww
from ww_callbacks.outputs import services
from ww_callbacks.outputs.panels import Panels
from ww_callbacks.report import Histogram

pytestmark = pytest.mark.timeout(180)

STEPS = list(range(0, 70, 10))
NOT_FINITE = "a holds NaN or infinite weights since step 40."


def train(*outputs: Any) -> ww.History:
    """A run whose first layer turns NaN at step 40 and whose second layer never changes."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((80, 60)) for name in ("a", "b", "c")}
    with ww.Monitor(weights, every_n_steps=10, executor="sync", figures=False, outputs=outputs) as monitor:
        for step in range(1, 61):
            weights["c"] += 0.01 * rng.standard_normal((80, 60))
            weights["a"] += np.nan if step == 40 else 0.01 * rng.standard_normal((80, 60))
            monitor.step(step)
    assert monitor.history.steps == STEPS
    return monitor.history


def panels() -> Panels:
    image, file = pytest.importorskip("PIL.Image"), io.BytesIO()
    image.new("RGB", (30, 20), "white").save(file, "PNG")
    return Panels(
        20,
        0.0,
        images={"ww/alpha_map": file.getvalue()},
        texts={"ww/layers": "| layer |\n|---|"},
        histograms={"ww_layer/log10_eigenvalues/000.a": Histogram(0.0, 1.0, (3, 4))},
    )


@pytest.fixture
def mlflow_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its newest version wants to be told
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"file:{tmp_path / 'runs'}")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def test_mlflow_has_metrics_findings_pictures_and_tables(mlflow_client: Any, tmp_path: Path) -> None:
    import mlflow

    with mlflow.start_run() as run:
        output = ww.MlflowOutput()
        output.show(panels())
        history = train(output)
    points = mlflow_client.get_metric_history(run.info.run_id, "ww/alpha")
    assert [point.step for point in points] == STEPS
    assert [point.value for point in points] == pytest.approx(history.series("alpha"))
    tags = mlflow_client.get_run(run.info.run_id).data.tags
    assert tags["ww.finding.non_finite"].startswith(NOT_FINITE)
    assert tags["ww.finding.frozen"].startswith("b has not changed since step 0")
    raised, withdrawn = tags["ww.finding.not_learning"].split("\n")
    assert raised.startswith("a and c look untrained since step")
    assert withdrawn.startswith("No longer so at step 60: a looks untrained")
    paths = [item.path for item in mlflow_client.list_artifacts(run.info.run_id, "ww/alpha_map")]
    assert paths == ["ww/alpha_map/step-000000020.png"]
    folder = mlflow_client.download_artifacts(run.info.run_id, "ww", str(tmp_path))
    assert Path(folder, "alpha_map/step-000000020.png").read_bytes() == panels().images["ww/alpha_map"]
    assert Path(folder, "layers/step-000000020.md").read_text() == "| layer |\n|---|"


def test_a_server_that_never_answers_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(services, "CLOSE_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = mlflow.MlflowClient(f"http://127.0.0.1:{server.getsockname()[1]}")
        output = ww.MlflowOutput("0123456789abcdef0123456789abcdef", client)
        with pytest.warns(RuntimeWarning, match="MlflowOutput is disabled: TimeoutError: MLflow is too slow, not all"):
            train(output)


def test_a_service_that_refuses_is_dropped_with_its_reason(mlflow_client: Any) -> None:
    with pytest.warns(RuntimeWarning, match="MlflowOutput is disabled: MlflowException: .*not found"):
        train(ww.MlflowOutput("0123456789abcdef0123456789abcdef", mlflow_client))


def test_trackio_has_metrics_and_alerts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when it is imported
    trackio = pytest.importorskip("trackio", reason="needs an older Pillow than constraints.txt has")
    from trackio.sqlite_storage import SQLiteStorage

    trackio.init(project="test", name="first")
    history = train(ww.TrackioOutput())
    trackio.finish()
    logged = [row for row in SQLiteStorage.get_logs("test", "first") if "ww/alpha" in row]
    assert [row["step"] for row in logged] == STEPS
    assert [row["ww/alpha"] for row in logged] == pytest.approx(history.series("alpha"))
    sent = {each["title"]: each for each in SQLiteStorage.get_alerts("test", "first")}
    assert {title: (each["level"], each["step"]) for title, each in sent.items()} == {
        "non_finite in a": ("error", 40),
        "frozen in b": ("info", 10),
        "not_learning in a and 1 more": ("info", 30),
    }
    assert sent["non_finite in a"]["text"].startswith(NOT_FINITE)


@pytest.mark.slow
def test_wandb_has_metrics_alerts_pictures_and_histograms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with wandb.init(dir=tmp_path, mode="offline", project="test") as run:
        output = ww.WandbOutput()
        output.show(panels())
        history = train(output)
        assert run.summary["ww/alpha"] == pytest.approx(history[-1].summary()["alpha"])
    wandb.teardown()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    logged = [row for row in rows(path) if "ww/alpha" in row]
    assert [row["ww/step"] for row in logged] == STEPS
    assert [row["ww/alpha"] for row in logged] == pytest.approx(history.series("alpha"))
    (shown,) = [row for row in rows(path) if "ww/alpha_map/_type" in row]
    assert (shown["ww/step"], shown["ww/alpha_map/_type"], shown["ww/alpha_map/width"]) == (20, "image-file", 30)
    assert shown["ww_layer/log10_eigenvalues/000.a/values"] == [3, 4]
    assert shown["ww_layer/log10_eigenvalues/000.a/bins"] == [0.0, 0.5, 1.0]
    assert len(list(path.parent.glob("files/media/images/ww/*.png"))) == 1
    told = {title: (level, text) for title, text, level in alerts(path)}
    assert {title: level for title, (level, _) in told.items()} == {
        "non_finite in a": "ERROR",
        "frozen in b": "INFO",
        "not_learning in a and 1 more": "INFO",
    }
    assert told["non_finite in a"][1].startswith(NOT_FINITE)
    left = {process.pid for process in psutil.Process().children(recursive=True)} - before
    assert not {pid for pid in left if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}


@pytest.mark.parametrize(
    ("package", "output", "words"),
    [
        ("wandb", ww.WandbOutput, r"no run of W&B, call wandb.init\(\) before"),
        ("mlflow", ww.MlflowOutput, r"no active run of MLflow, call mlflow.start_run\(\) before"),
        ("trackio", ww.TrackioOutput, r"no run of trackio, call trackio.init\(\) before"),
    ],
)
def test_without_a_run_it_says_what_to_call(package: str, output: Any, words: str) -> None:
    pytest.importorskip(package)
    with pytest.raises(ValueError, match=words):
        output()
