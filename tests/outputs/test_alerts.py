"""Findings as alerts: their level, their length, and each only once."""

from __future__ import annotations

from typing import Any

import pytest

import ww_callbacks as ww
from ww_callbacks.outputs.alerts import LONGEST_TITLE, Alert, Alerts
from ww_callbacks.report.finding import KINDS

VALUES: dict[str, Any] = {"since": 20, "step": 40, "evidence": {}, "text": "It is so."}


def finding(**values: Any) -> ww.Finding:
    return ww.Finding(**{"kind": "non_finite", "layers": ("fc",), "confidence": "certain"} | VALUES | values)


@pytest.mark.parametrize(
    ("kind", "confidence", "level"),
    [
        ("non_finite", "certain", "ERROR"),
        ("exploding", "likely", "WARN"),
        ("frozen", "certain", "INFO"),
        ("plateau", "possible", "INFO"),
    ],
)
def test_the_level_is_that_of_the_finding(kind: Any, confidence: Any, level: str) -> None:
    assert Alert.of(finding(kind=kind, confidence=confidence)).level == level


@pytest.mark.parametrize("layers", [(), ("fc",), ("a\n\x1b[2Jb", "c"), ("層" * 5000,), ("x" * 5000,) * 100_000])
def test_titles_are_short_and_printable_whatever_the_layers_are_called(layers: tuple[str, ...]) -> None:
    titles = [Alert.of(finding(kind=kind, layers=layers)).title for kind in KINDS]
    assert all(len(title) <= LONGEST_TITLE and title.isprintable() for title in titles)
    assert len(set(titles)) == len(KINDS)


def test_the_text_is_short_and_printable() -> None:
    text = Alert.of(finding(text="<!channel>\n" * 5000)).text
    assert len(text) <= 2000
    assert text.isprintable()


def test_each_kind_and_set_of_layers_is_sent_once() -> None:
    alerts = Alerts()
    first = finding(layers=("a", "b"))
    told = [first, finding(layers=("b", "a"), step=60), finding(layers=("a", "b"), until=80), first]
    assert [alerts.of(each) is not None for each in told] == [True, False, False, False]
    assert alerts.of(finding(layers=("a",))) is not None
    assert alerts.of(finding(kind="frozen", layers=("a", "b"))) is not None
