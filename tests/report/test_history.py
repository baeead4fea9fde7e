import pytest

from ww_callbacks.report import History, LayerReport, Report


def layer(name: str, **columns: object) -> LayerReport:
    return LayerReport(name=name, kind="Linear", **columns)


def test_history_keeps_the_counted_layers_of_its_first_report():
    history = History([Report((layer("a", alpha=2.0), layer("b", alpha=4.0)), 0)])
    history.append(Report((layer("a", alpha=3.0), layer("b")), 10))
    assert history.series("alpha") == [3.0, 3.0]
    assert history.series("alpha", "a") == [2.0, 3.0]
    with pytest.raises(ValueError, match="step"):
        history.append(Report((), 5))


def test_a_long_history_is_thinned_out_but_for_its_beginning_and_its_end():
    history, longest = History(max_entries=100), 0
    for step in range(1000):
        history.append(Report((layer("a", alpha=float(step)), layer("b")), step))
        longest = max(longest, len(history))
        assert history.steps[-18:] == list(range(max(0, step - 17), step + 1))
        assert history.steps[0] == 0
    assert longest == 50  # reports of two layers
    assert history.seen == 1000
    assert history.series("alpha", "a") == history.steps == sorted(set(history.steps))
    assert len(History(history)) == len(history)  # by default all are kept


def test_a_thinned_history_counts_on_after_a_checkpoint():
    history = History((Report((layer("a", alpha=2.0),), step) for step in range(100)), max_entries=30)
    again = History.from_state_dict(history.state_dict())
    again.append(Report((layer("a", alpha=2.0),), 100))
    assert again.seen == 101
    assert again.steps == [*history.steps, 100]


def test_an_empty_history_says_so_wherever_it_is_asked():
    history = History()
    for index in (-1, 0, 5):
        with pytest.raises(IndexError, match=r"^no result has come in yet: .*wait_for_first.*finish"):
            history[index]
    with pytest.raises(ValueError, match="it has no reports, so there is nothing to draw"):
        history.plot()
    assert list(history) == history[:3] == history.series("alpha") == []
    assert len(history.to_pandas()) == 0
    assert history.advice() == ["No results have come in, so there is nothing to say."]


def test_reports_are_numbered():
    history = History([Report((layer("a"),), 0)])
    with pytest.raises(IndexError, match="there are 1 reports, so there is no number 3"):
        history[3]
    with pytest.raises(TypeError, match=r"reports are numbered, got 'a'; history\[-1\] is the latest one"):
        history["a"]


@pytest.mark.parametrize(
    ("metric", "name", "message"),
    [
        ("alhpa", None, "metric: there is no metric of the model 'alhpa'; did you mean 'alpha'"),
        ("ww/alpha", None, "there is no metric of the model 'ww/alpha'; did you mean 'alpha'"),
        ("stabel_rank", "a", "metric: there is no column 'stabel_rank'; did you mean 'stable_rank'"),
    ],
)
def test_a_metric_that_does_not_exist_is_not_a_row_of_none(metric, name, message):
    with pytest.raises(ValueError, match=message):
        History([Report((layer("a"),), 0)]).series(metric, name)


def test_what_is_no_report_or_no_number_is_refused():
    history = History()
    with pytest.raises(TypeError, match="report: expected a Report, got list"):
        history.append([layer("a")])
    with pytest.raises(TypeError, match="value: expected a number for 'val_loss', got 'low'"):
        history.record("val_loss", "low")
    with pytest.raises(TypeError, match=r"name: expected a string, got 0\.5"):
        history.record(0.5, "val_loss")
    with pytest.raises(ValueError, match="state: not that of a history: KeyError"):
        History.from_state_dict({})
