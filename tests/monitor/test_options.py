import dataclasses

import pytest

from ww_callbacks.monitor.options import Options


def test_options_come_back_as_the_arguments_they_were_made_of():
    defaults = {field.name: field.default for field in dataclasses.fields(Options)}
    given = {"layers": ["a"], "on_result": print, "workers": 3}
    assert Options(**given).as_arguments() == defaults | given


class Closable:
    """An output, if an object of this class is given and not the class."""

    def write(self, report, metrics, wall_time):
        pass

    def close(self):
        pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("every_n_steps", None),
        ("every_n_steps", 1),
        ("layers", ("a", "!b")),
        ("log_every_layer", True),
        ("log_every_layer", False),
        ("log_every_layer", ["fc*"]),
        ("split", {"*.qkv": 3, "*.kv": [8, 4]}),
        ("conv_scale", "paper"),
        ("conv_scale", "none"),
        ("deterministic", True),
        ("deterministic", False),
        ("deterministic", None),
        ("workers", 3),
        ("executor", "thread"),
        ("budget", 0.05),
        ("budget", "30s"),
        ("timeout", 1),
        ("on_error", "raise"),
        ("outputs", [Closable()]),
    ],
)
def test_values_that_are_allowed(name, value):
    assert getattr(Options(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("every_n_steps", 0, ValueError),
        ("executor", "fork", ValueError),
        ("executor", print, TypeError),
        ("workers", 0, ValueError),
        ("budget", 0, ValueError),
        ("budget", 1.5, ValueError),
        ("budget", True, TypeError),
        ("budget", "30", ValueError),
        ("budget", "0s", ValueError),
        ("budget", [1], TypeError),
        ("every_n_steps", -5, ValueError),
        ("every_n_steps", 2.5, TypeError),
        ("every_n_steps", True, TypeError),
        ("every_n_steps", "200", TypeError),
        ("layers", "encoder.*", TypeError),
        ("layers", [], ValueError),
        ("log_every_layer", "all", TypeError),
        ("log_every_layer", 3, TypeError),
        ("log_every_layer", None, TypeError),
        ("on_result", "print", TypeError),
        ("outputs", print, TypeError),
        ("outputs", "tensorboard", TypeError),
        ("outputs", None, TypeError),
        ("outputs", [print], TypeError),
        ("outputs", [Closable], TypeError),
        ("conv_scale", "weight_watcher", ValueError),
        ("conv_scale", None, ValueError),
        ("deterministic", "wait", TypeError),
        ("updates", 1, TypeError),
        ("updates", None, TypeError),
        ("split", 3, TypeError),
        ("split", ["*.qkv"], TypeError),
        ("split", {3: 3}, TypeError),
        ("split", {"*.qkv": "3"}, TypeError),
        ("split", {"*.qkv": True}, TypeError),
        ("split", {"*.qkv": []}, TypeError),
        ("split", {"*.qkv": [8, 0]}, ValueError),
        ("split", {}, ValueError),
        ("workers", 1.0, TypeError),
        ("timeout", 0, ValueError),
        ("timeout", "1 h", TypeError),
        ("timeout", -1, ValueError),
        ("timeout", None, TypeError),
        ("on_error", "ignore", ValueError),
    ],
)
def test_wrong_values_are_refused_at_once_by_name(name, value, kind):
    with pytest.raises(kind, match=f"^{name}: expected .*got "):
        Options(**{name: value})


def test_options_are_told_apart_by_identity():
    assert Options() != Options()
    assert len({Options(), Options()}) == 2


def test_the_settings_of_the_analysis_are_those_of_the_options():
    assert Options(conv_scale="paper").settings().conv_scale == "paper"
