"""The pages show what the result files say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

FILE = Path(__file__).parents[1] / "benchmarks" / "evidence" / "learning_rate_tables.py"


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("learning_rate_tables", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_learning_rates_are_those_of_the_results(tables):
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.renewed(page) == page


def test_intervals_are_those_of_a_paired_t_test(tables):
    first, second = np.random.default_rng(0).normal(size=(2, 9))
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    mean, low, high = tables.interval(list(first - second))
    assert (mean, low, high) == pytest.approx(((first - second).mean(), expected.low, expected.high))
    assert tables.told((mean, low, high), 2).startswith("**") == (not low <= 0 <= high)


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(FILE.parent))
    return importlib.import_module("page")


@pytest.mark.parametrize("name", ["early_stopping.md", "findings.md"])
def test_the_tables_of_stops_and_findings_are_those_of_the_results(page, name):
    path = page.DOCS / name
    text = path.read_text(encoding="utf-8")
    assert page.filled(path, text) == text


def test_intervals_of_shares_and_means(page):
    policies = importlib.import_module("policies")
    low, high = policies.binomial_interval(1, 100)
    expected = stats.binomtest(1, 100).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((expected.low, expected.high))
    values = np.random.default_rng(0).normal(size=7)
    interval = stats.ttest_1samp(values, 0).confidence_interval()
    mean, half = policies.mean_interval(list(values))
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high))
