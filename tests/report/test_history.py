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
