import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from ww_callbacks.checks import (
    check_callable,
    check_choice,
    check_count,
    check_path,
    check_patterns,
    check_seconds,
)


@pytest.mark.parametrize("value", [1, 2, 10**12])
def test_whole_numbers_from_one_on_are_counts(value):
    check_count("workers", value)


@pytest.mark.parametrize("value", [0, -1])
def test_counts_below_one_are_refused_with_name_and_value(value):
    with pytest.raises(ValueError, match=rf"^workers: expected at least 1, got {value}$"):
        check_count("workers", value)


@pytest.mark.parametrize("value", [True, False, 1.0, "3", None, [1], Decimal(3)])
def test_what_is_no_whole_number_is_refused_as_a_count(value):
    with pytest.raises(TypeError, match=rf"^workers: expected a whole number, got {re.escape(repr(value))}$"):
        check_count("workers", value)


@pytest.mark.parametrize("value", [1, 0.001, 1e6, float("inf"), np.float64(3)])
def test_positive_numbers_are_seconds(value):
    check_seconds("timeout", value)


@pytest.mark.parametrize("value", [0, -1, -0.5, float("nan"), float("-inf")])
def test_seconds_that_are_not_positive_are_refused(value):
    with pytest.raises(ValueError, match=rf"^timeout: expected more than 0 seconds, got {re.escape(str(value))}"):
        check_seconds("timeout", value)


@pytest.mark.parametrize("value", [True, "3", None, [1]])
def test_what_is_no_number_is_refused_as_seconds(value):
    with pytest.raises(TypeError, match=r"^timeout: expected a number of seconds, got "):
        check_seconds("timeout", value)


def test_a_choice_must_be_one_of_those_allowed_and_the_message_lists_them():
    check_choice("on_error", "warn", ("warn", "raise"))
    with pytest.raises(ValueError, match=r"^on_error: expected one of 'warn', 'raise', got 'Warn'$"):
        check_choice("on_error", "Warn", ("warn", "raise"))


@pytest.mark.parametrize("value", [None, print, lambda report: None, dict])
def test_functions_and_none_can_be_called(value):
    check_callable("on_result", value)


@pytest.mark.parametrize("value", [3, "print", [print], False])
def test_what_cannot_be_called_is_refused(value):
    with pytest.raises(TypeError, match=r"^on_result: expected a function or None, got "):
        check_callable("on_result", value)


@pytest.mark.parametrize("value", [None, "runs", Path("runs"), ""])
def test_paths(value):
    check_path("log_dir", value)


@pytest.mark.parametrize("value", [3, True, b"runs", ["runs"]])
def test_what_is_no_path_is_refused(value):
    with pytest.raises(TypeError, match=r"^log_dir: expected a path or None, got "):
        check_path("log_dir", value)


@pytest.mark.parametrize("value", [True, False, None, "history.jsonl", Path("x")])
def test_paths_or_truth_values(value):
    check_path("jsonl", value, or_bool=True)


def test_the_message_says_where_truth_values_are_allowed():
    with pytest.raises(TypeError, match=r"^jsonl: expected a path, True, False or None, got 3"):
        check_path("jsonl", 3, or_bool=True)


@pytest.mark.parametrize("value", [None, ["*"], ("encoder.*", "!head")])
def test_lists_of_patterns(value):
    check_patterns("layers", value)


@pytest.mark.parametrize("value", ["encoder.*", [1], ["a", None], {"a"}, 3, True])
def test_what_is_no_list_of_patterns_is_refused(value):
    with pytest.raises(TypeError, match=r"^layers: expected a list of patterns such as .*got "):
        check_patterns("layers", value)


@pytest.mark.parametrize("value", [[], (), [""], ["!"], ["a", ""]])
def test_empty_patterns_are_refused(value):
    with pytest.raises(ValueError, match=r"^layers: expected at least one pattern, none of them empty, got "):
        check_patterns("layers", value)
