"""The findings of a run from those that were raised and withdrawn."""

from ww_callbacks.report import Finding
from ww_callbacks.signals.standing import Standing


def finding(kind, layers, since, until=None, **evidence):
    return Finding(
        kind=kind,
        layers=tuple(layers),
        since=since,
        step=since,
        evidence=dict.fromkeys(layers, evidence),
        confidence="certain",
        text=f"text of {kind}",
        until=until,
    )


def test_findings_of_one_kind_are_one_sentence():
    standing = Standing()
    standing.add(finding("non_finite", ["fc1"], 100), 100)
    standing.add(finding("non_finite", ["fc2"], 300), 300)
    (found,) = standing.findings
    assert found.layers == ("fc1", "fc2")
    assert found.since == 100
    assert found.text == "fc1 (since step 100) and fc2 (since step 300) hold NaN or infinite weights."


def test_alarms_come_first_and_withdrawn_ones_last():
    standing = Standing()
    standing.add(finding("frozen", ["a"], 10), 10)
    standing.add(finding("non_finite", ["b"], 20), 20)
    standing.add(finding("frozen", ["a"], 10, until=30), 30)
    standing.add(finding("frozen", ["c"], 40), 40)
    assert [(each.kind, each.layers, each.until) for each in standing.findings] == [
        ("non_finite", ("b",), None),
        ("frozen", ("c",), None),
        ("frozen", ("a",), 30),
    ]


def test_a_restart_forgets_what_came_after_it():
    standing = Standing()
    standing.add(finding("frozen", ["a"], 10), 10)
    standing.add(finding("frozen", ["a"], 10, until=30), 30)
    standing.cut(20)
    assert [(each.layers, each.until) for each in standing.findings] == [(("a",), None)]


def test_evidence_that_cannot_be_worded_leaves_the_text_as_it_was_written():
    standing = Standing()
    standing.add(finding("plateau", ["a"], 10, alpha="much"), 10)
    assert standing.findings[0].text == "text of plateau"
