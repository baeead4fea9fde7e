"""Checkpoints of other models and versions, damaged ones and those of wrong types: training goes on in each case."""

import copy
import json
import random
import warnings
from collections import Counter

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.signals.learning_rate import LayerRatios
from ww_callbacks.signals.ramp import Ramp

QUICK, FULL = 150, 10_000


def model(**others: tuple[int, ...]) -> dict[str, np.ndarray]:
    shapes = {"body.0": (60, 50), "body.1": (50, 50), "body.2": (50, 40), "head": (40, 9)} | others
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items() if shape}


def monitor_of(weights: dict[str, np.ndarray], **options: object) -> ww.Monitor:
    return ww.Monitor(weights, every_n_steps=5, executor="sync", randomize=False, **options)


@pytest.fixture(scope="module")
def state() -> dict[str, object]:
    monitor = monitor_of(model())
    monitor.attach("stop", ww.EarlyStopping())
    monitor.attach("lr_ratio", LayerRatios(shrink=False))
    monitor.start()
    monitor.record("val_loss", 0.5, step=3)
    for step in range(1, 13):
        monitor.step(step)
    found = json.loads(json.dumps(monitor.state_dict()))
    monitor.close()
    return found


def test_the_same_model_goes_on_without_a_word(state):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with monitor_of(model()) as monitor:
            monitor.close()
        second = monitor_of(model())
        second.load_state_dict(state)
        with second:
            assert second.metrics["ww/alpha"]
            second.step(15)
    assert second.history.steps == [0, 5, 10, 15]


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.ones((60, 50)), "b": np.eye(50, 40)},
        {name: np.ones((30, 20)) for name in model()},
    ],
    ids=["other names", "other sizes"],
)
def test_the_history_of_another_model_is_left_out_with_one_warning(state, other):
    rng = np.random.default_rng(1)
    monitor = monitor_of({name: rng.standard_normal(array.shape) for name, array in other.items()})
    monitor.load_state_dict(state)
    with pytest.warns(RuntimeWarning, match="the checkpoint is of another model: 0 of its 4 layers") as caught:
        monitor.start(12)
    assert len(caught) == 1
    assert not monitor.should_stop
    monitor.step(15)
    monitor.finish()
    assert monitor.history.steps == [12, 15]
    assert set(monitor.history[-1].column("name")) == set(other)


def test_a_changed_head_keeps_the_history_of_the_other_layers(state):
    monitor = monitor_of(model(head=(40, 5), extra=(50, 50)))
    monitor.load_state_dict(state)
    says = r"\['head'\] only in the checkpoint or of another size there and \['extra'\] not in the checkpoint"
    with pytest.warns(RuntimeWarning, match=says) as caught:
        monitor.start(12)
    assert len(caught) == 1
    for step in range(13, 21):
        monitor.step(step)
    monitor.finish()
    assert monitor.history.steps == [0, 5, 10, 12, 15, 20]
    assert monitor.history[0].column("name") == ["body.0", "body.1", "body.2"]
    assert monitor.history[-1]["head"].M == 5
    assert monitor.history.recorded("val_loss") == []
    assert set(monitor.lr_ratios()) == {"body.0", "body.1", "body.2", "head", "extra"}
    assert monitor.history.findings is not None
    assert [report.summary()["alpha"] for report in monitor.history]  # over the layers that all reports have
    again = monitor_of(model(head=(40, 5), extra=(50, 50)))
    again.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    with again:
        again.step(25)
    assert again.history.steps[-2:] == [20, 25]


def test_a_changed_head_at_the_step_of_a_report_is_analysed_there(state):
    monitor = monitor_of(model(head=(40, 5)))
    monitor.load_state_dict(state)
    with pytest.warns(RuntimeWarning, match="metrics and verdicts begin anew"):
        monitor.start(12)
    assert monitor.wait_for_first()
    assert monitor.metrics["ww/alpha"]
    monitor.close()


def test_layers_that_are_excluded_now_are_no_other_model(state):
    monitor = monitor_of(model(), layers=["body.*"])
    monitor.load_state_dict(state)
    with monitor:
        monitor.step(15)
    assert monitor.history.steps == [0, 5, 10, 15]


DAMAGED = {
    "no mapping": lambda state: [1, 2],
    "a text": lambda state: "state",
    "nothing but a step": lambda state: {"step": 5},
    "a step that is a text": lambda state: state | {"step": "12"},
    "a newer version": lambda state: state | {"published": {**state["published"], "colour": 1}},
    "truncated": lambda state: state | {"history": {**state["history"], "reports": state["history"]["reports"][:-9]}},
    "brackets": lambda state: state | {"history": {**state["history"], "reports": "[" * 200_000}},
    "a stop without a reason": lambda state: (
        state | {"published": {**state["published"], "verdicts": {"stop": {"stop": True}}}}
    ),
    "ratios that are not finite": lambda state: (
        state
        | {
            "published": {
                **state["published"],
                "verdicts": {
                    "lr_ratio": {"layers": ["head"], "ratios": [float("nan")], "left_out": [None], "num_compared": 1}
                },
            }
        }
    ),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_state_is_left_out_with_one_warning(state, damage):
    monitor = monitor_of(model())
    with pytest.warns(RuntimeWarning, match="not that of a monitor: .* it is left out, a new history begins") as caught:
        monitor.load_state_dict(damage(copy.deepcopy(state)))
    assert len(caught) == 1
    assert len(str(caught[0].message)) < 2100
    with monitor:
        monitor.step(5)
    assert monitor.history.steps == [0, 5]
    strict = monitor_of(model(), on_error="raise")
    with pytest.raises(ValueError, match="state: not that of a monitor"):
        strict.load_state_dict(damage(copy.deepcopy(state)))


ODD = (
    *(None, True, "x", -1, 1.5, 10**30, 10**400, float("nan"), [], [1], {}, {"a": 1}, b"x", object(), np.float64(3)),
    *("[[1, 2]]", "[", {"stop": True}, {"ratios": [0]}, [[1, 2, 3]], "head", np.ones(3)),
)


def changed(state: dict[str, object], choose: random.Random) -> object:
    """The state with an odd value somewhere, or with a part removed, renamed or cut."""
    result = copy.deepcopy(state)
    for _ in range(choose.choice([1, 1, 2, 4])):
        place, at = result, result
        while isinstance(at, dict) and at and choose.random() < 0.8:
            place, key = at, choose.choice(list(at))
            at = at[key]
        if place is at:
            continue
        match choose.randrange(5):
            case 0:
                del place[key]
            case 1:
                place[f"{key}2"] = place.pop(key)
            case 2 if isinstance(at, str) and at:
                cut = choose.randrange(len(at))
                place[key] = at[:cut] + choose.choice(["", "9", "}", "null", "e999", '"']) + at[cut + 1 :]
            case 3 if isinstance(at, list) and at:
                at[choose.randrange(len(at))] = copy.deepcopy(choose.choice(ODD))
            case _:
                place[key] = copy.deepcopy(choose.choice(ODD))
    return result


@pytest.mark.parametrize("number", [QUICK, pytest.param(FULL, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_training_survives_each_changed_state(state, number):
    found: Counter[str] = Counter()
    weights = model(head=(40, 8))
    for index in range(number):
        other = changed(state, random.Random(f"state {index}"))
        monitor = monitor_of(weights if index % 2 else model())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor.load_state_dict(other)
            monitor.start(12, baseline=index % 50 == 0)
        says = [str(each.message) for each in caught]
        assert not monitor.closed, f"input {index}: {says}"
        assert len(says) <= 1, f"input {index}: {says}"
        assert isinstance(monitor.should_stop, bool)
        assert isinstance(monitor.stop_reason, str)
        assert all(ratio > 0 for ratio in monitor.lr_ratios().values())
        json.dumps(monitor.state_dict())
        found["kept" if len(monitor.history) > 1 else "left out"] += 1
        monitor.close()
    print(dict(found))
    assert min(found.values()) > number / 20


def test_a_ramp_takes_no_ratios_that_could_harm_training():
    ramp = Ramp(10)
    ramp.aim({"fc": 1.5}, 0)
    good = ramp.state_dict()
    for change in (
        {"since": "3"},
        {"target": {"fc": float("nan")}},
        {"start": {"fc": -1.0}},
        {"target": [1]},
        {"start": 3},
    ):
        with pytest.raises(ValueError, match="state: not that of a ramp"):
            ramp.load_state_dict(good | change)
    with pytest.raises(ValueError, match="state: not that of a ramp"):
        ramp.load_state_dict({})
    assert ramp.state_dict() == good
