"""The page of results in memory: in notebooks, and of a finished model."""

import json
import re
from html import unescape

import numpy as np
import pytest
from onefile import inflated, inlined
from recorded import record

import ww_callbacks as ww
from ww_callbacks.page.known import run_of_history, run_of_report


@pytest.fixture(scope="module")
def monitor():
    return record(None)


def test_a_history_is_a_run_with_its_findings_and_metrics(monitor):
    run = run_of_history(monitor.history, "mine")
    answer = run.answer()
    assert answer["steps"] == monitor.history.steps
    np.testing.assert_allclose(run.column("alpha")[-1], np.array(monitor.history[-1].column("alpha"), float), rtol=1e-6)
    assert [each["kind"] for each in answer["findings"]] == [each.kind for each in monitor.history.findings]
    assert {rule["name"]: rule["score"][-1] for rule in answer["rules"]}["traps"] > 0
    assert [(curve["name"], curve["steps"]) for curve in answer["curves"]] == [("val_accuracy", [20, 40, 60])]


def test_a_notebook_shows_a_history_in_a_frame_without_access(monitor):
    frame = monitor.history._repr_html_()
    (page,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert 'sandbox="allow-scripts"' in frame
    data = inlined(unescape(page))
    assert data["run"]["history"]["steps"] == monitor.history.steps
    cells = json.loads(inflated(data["cells"]["history"][str(len(monitor.history) - 1)]))
    assert cells[0]["histogram"] is not None


def test_an_empty_history_has_no_page():
    assert ww.History()._repr_html_() is None


def test_a_finished_model_is_a_run_with_one_report():
    rng = np.random.default_rng(0)
    report = ww.analyze({"a": rng.standard_normal((80, 60)), "b": np.full((60, 60), np.nan)})
    run = run_of_report(report, "model")
    assert run.answer()["steps"] == [None], "it has no step"
    assert run.cell(0, 0)["values"]["alpha"] == pytest.approx(report["a"].alpha, rel=1e-6)
    assert [finding["kind"] for finding in run.answer()["findings"]] == [finding.kind for finding in report.findings]
