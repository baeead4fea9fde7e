import sys

import numpy as np
import pytest
from processes import workers

import ww_callbacks as ww
from ww_callbacks.analysis import LayerSpec, Settings
from ww_callbacks.models.run import run_layers
from ww_callbacks.weights import Layer

pytestmark = pytest.mark.timeout(90)


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "fc1": rng.standard_normal((120, 60)),
        "bias": rng.standard_normal(60),
        "conv": rng.standard_normal((20, 16, 3, 3)).astype(np.float32),
        "nan": np.full((30, 30), np.nan),
        "fc2": rng.standard_normal((200, 90)).astype(np.float16),
        "head": rng.standard_normal((60, 10)),
    }


@pytest.mark.parametrize("count", [1, 2])
def test_worker_processes_give_the_same_report_and_are_gone(count):
    before = workers()
    here, there = ww.analyze(weights()), ww.analyze(weights(), workers=count)
    assert [layer.name for layer in there] == list(weights())
    assert [(layer.status, layer.reason) for layer in there] == [(layer.status, layer.reason) for layer in here]
    for ours, theirs in zip(here, there, strict=True):
        for name in ("alpha", "max_rand_eval", "norm"):
            value = getattr(ours, name)
            assert getattr(theirs, name) == (None if value is None else pytest.approx(value, rel=1e-6))
    assert workers() <= before


def test_more_workers_than_layers_and_no_layer_at_all():
    assert ww.analyze({"fc": weights()["fc1"]}, workers=5)["fc"].status == "ok"
    assert len(ww.analyze({}, workers=2)) == 0


def test_an_error_while_reading_leaves_no_process_behind():

    def layer(name, read):
        return Layer(name, "Linear", LayerSpec(name, "Linear", (60, 50), "float64", ((), (0,), (1,))), read)

    def broken():
        raise OSError("the disk is gone")

    before = workers()
    with pytest.raises(OSError, match="disk"):
        run_layers([layer("a", lambda: np.ones((60, 50))), layer("b", broken)], Settings(), workers=2)
    assert workers() <= before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"workers": -1}, ValueError), ({"workers": 1.5}, TypeError), ({"progress": "yes"}, TypeError)],
)
def test_wrong_arguments_are_named(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        ww.analyze(weights(), **arguments)


def test_without_a_terminal_progress_shows_nothing(capfd):
    ww.analyze({"fc": weights()["fc1"]}, progress=True)
    assert capfd.readouterr() == ("", "")


def test_without_rich_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ImportError, match=r"pip install ww_callbacks\[cli\]"):
        ww.analyze(weights(), progress=True)
