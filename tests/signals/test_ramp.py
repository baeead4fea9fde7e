"""Ratios on their way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_callbacks.signals.ramp import Ramp

ratios = st.dictionaries(st.sampled_from("abcd"), st.floats(0.1, 5.0), max_size=4)


def test_from_the_old_ratios_to_the_new_ones():
    ramp = Ramp(4)
    ramp.aim({"a": 2.0}, step=0)
    ramp.aim({"a": 0.5, "b": 3.0}, step=2)  # a is at 1.5 by now
    assert [ramp.at(step) for step in (2, 4, 6, 99)] == [
        {"a": 1.5, "b": 1.0},
        {"a": 1.0, "b": 2.0},
        {"a": 0.5, "b": 3.0},
        {"a": 0.5, "b": 3.0},
    ]


def test_a_layer_that_vanishes_goes_back_to_one():
    ramp = Ramp(2)
    ramp.aim({"a": 2.0}, step=0)
    ramp.aim({"b": 2.0}, step=10)
    assert [ramp.at(step) for step in (10, 11, 12)] == [{"a": 2.0, "b": 1.0}, {"a": 1.5, "b": 1.5}, {"b": 2.0}]


def test_the_same_aim_again_does_not_start_anew():
    ramp = Ramp(10)
    for step in range(10):
        ramp.aim({"a": 2.0}, step)
    assert ramp.at(10) == {"a": 2.0}


def test_no_ramp_is_a_jump():
    ramp = Ramp(0)
    ramp.aim({"a": 2.0}, step=7)
    assert ramp.at(7) == {"a": 2.0}


def test_a_step_before_the_aim_is_its_beginning():
    ramp = Ramp(5)
    ramp.aim({"a": 2.0}, step=100)
    assert ramp.at(90) == {"a": 1.0}


@given(ratios, ratios, st.integers(0, 20), st.integers(0, 40), st.integers(0, 40))
def test_never_beyond_the_ends_and_a_checkpoint_goes_on_alike(first, second, steps, middle, later):
    ramp = Ramp(steps)
    ramp.aim(first, 0)
    ramp.aim(second, middle)
    resumed = Ramp(steps)
    resumed.load_state_dict(json.loads(json.dumps(ramp.state_dict())))
    found = ramp.at(middle + later)
    assert resumed.at(middle + later) == found
    for name, ratio in found.items():
        ends = (1.0, first.get(name, 1.0), second.get(name, 1.0))
        assert min(ends) - 1e-12 <= ratio <= max(ends) + 1e-12


@pytest.mark.parametrize(("steps", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_wrong_lengths(steps, error):
    with pytest.raises(error, match="ramp_steps"):
        Ramp(steps)
