import json
from dataclasses import replace
from pathlib import Path

import pytest

import ww_callbacks as ww
from ww_callbacks.report.finding import ALARMS, KINDS
from ww_callbacks.signals.detectors import DETECTORS
from ww_callbacks.signals.wording import WORDS

FINDING = ww.Finding(
    kind="frozen",
    layers=("fc1", "fc2"),
    since=40,
    step=100,
    evidence={"fc1": {"unchanged_since": 40}, "fc2": {"unchanged_since": 60}},
    confidence="certain",
    text="fc1 and fc2 have not changed.",
    action="Check requires_grad.",
)


def test_a_finding_survives_a_round_trip_through_json():
    assert ww.Finding.from_dict(json.loads(json.dumps(FINDING.to_dict()))) == FINDING
    assert hash(FINDING) == hash(ww.Finding.from_dict(FINDING.to_dict()))


def test_a_finding_reads_as_text_and_action_and_a_withdrawn_one_says_so():
    assert str(FINDING) == "fc1 and fc2 have not changed. Check requires_grad."
    assert str(replace(FINDING, until=120)) == "No longer so at step 120: fc1 and fc2 have not changed."
    assert str(replace(FINDING, action="")) == FINDING.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "memorising"}, "unknown kind 'memorising'"),
        ({"confidence": "sure"}, "unknown confidence 'sure'"),
        ({"colour": "red"}, "colour"),
        ({"text": 3}, "of a wrong type"),
        ({"layers": [1]}, "of a wrong type"),
        ({"since": "soon"}, "of a wrong type"),
        ({"evidence": ["fc1"]}, "of a wrong type"),
        ({"evidence": {"fc1": 3}}, "of a wrong type"),
        ({"layers": None}, "TypeError"),
    ],
)
def test_values_of_something_else_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ww.Finding.from_dict(FINDING.to_dict() | change)


def test_every_kind_has_words_a_detector_and_a_row_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "findings.md").read_text().partition("## The kinds")[2]
    assert set(WORDS) == set(KINDS)
    assert {kind for kind in KINDS if not kind.startswith("trap_")} == {
        each.kind for each in DETECTORS if not each.kind.startswith("trap_")
    }
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    assert rows == [f"`{kind}`" for kind in KINDS]
    for kind in KINDS:
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{kind}` |"))
        assert ("alarm" in row) == (kind in ALARMS)
