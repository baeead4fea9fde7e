"""Argument validation. Each message names the argument, its value and what is allowed."""

from __future__ import annotations

import difflib
import math
import os
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import fields
from typing import Any

from ww_callbacks.console import above_bars
from ww_callbacks.printable import quoted, shown_text

LONGEST_WARNING = 2000
"""Maximal number of characters of a warning."""


def arguments_of(holder: Any, declared: Any = None) -> dict[str, Any]:
    """The values of the arguments that a dataclass declares.

    Args:
        holder: an instance of a dataclass.
        declared: the dataclass that declares the arguments, a base class of the holder's class; None for that class.
    """
    return {field.name: getattr(holder, field.name) for field in fields(declared or holder)}


def check_flag(name: str, value: object, *, or_none: bool = False) -> None:
    """Check that a value is True or False.

    Args:
        name: of the argument.
        value: of the argument.
        or_none: whether None is allowed too.

    Raises:
        TypeError: it has another type.
    """
    if not isinstance(value, bool) and not (or_none and value is None):
        raise TypeError(f"{name}: expected {'True, False or None' if or_none else 'True or False'}, got {value!r}")


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Check that a value is a whole number ≥ ``least``.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is smaller.

    Example:
        >>> check_count("workers", 0)
        Traceback (most recent call last):
        ValueError: workers: expected at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def check_sizes(name: str, value: object) -> None:
    """Check that a value is None or a mapping pattern → number of parts or list of sizes.

    Raises:
        TypeError: it is not such a mapping.
        ValueError: it is empty, or a number or a size is smaller than 1.

    Example:
        >>> check_sizes("split", {"*.qkv": 0})
        Traceback (most recent call last):
        ValueError: split: expected numbers of parts or sizes of at least 1, got 0 for '*.qkv'
    """
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(isinstance(pattern, str) for pattern in value):
        raise TypeError(f"{name}: expected a mapping pattern -> number of parts or sizes, got {value!r}")
    if not value:
        raise ValueError(f"{name}: expected at least one pattern, got {value!r}")
    for pattern, sizes in value.items():
        numbers = list(sizes) if isinstance(sizes, (list, tuple)) else [sizes]
        if not numbers or any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
            raise TypeError(
                f"{name}: expected a whole number of parts or a list of sizes, got {sizes!r} for {pattern!r}"
            )
        if min(numbers) < 1:
            raise ValueError(f"{name}: expected numbers of parts or sizes of at least 1, got {sizes!r} for {pattern!r}")


def check_seconds(name: str, value: object) -> None:
    """Check that a value is a positive number of seconds.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not larger than 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number of seconds, got {value!r}")
    if not value > 0:
        raise ValueError(f"{name}: expected more than 0 seconds, got {value}")


def check_range(low_name: str, low: object, high_name: str, high: object) -> None:
    """Check that a range is positive, finite and not reversed.

    Raises:
        TypeError: a limit is not a number.
        ValueError: a limit is not finite, or not 0 < low ≤ high.

    Example:
        >>> check_range("low", 1.5, "high", 0.5)
        Traceback (most recent call last):
        ValueError: low, high: expected 0 < low <= high, both finite, got 1.5 and 0.5
    """
    for name, value in ((low_name, low), (high_name, high)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}: expected a number, got {value!r}")
    if not (isinstance(low, (int, float)) and isinstance(high, (int, float)) and 0 < low <= high < math.inf):
        raise ValueError(
            f"{low_name}, {high_name}: expected 0 < {low_name} <= {high_name}, both finite, got {low} and {high}"
        )


def check_choice(name: str, value: object, allowed: Collection[object]) -> None:
    """Check that a value is one of the allowed values.

    Raises:
        ValueError: it is not.
    """
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_known(name: str, value: object, known: Collection[str], kind: str) -> None:
    """Check that a value is a known name; the message proposes the most similar one.

    Args:
        name: of the argument.
        value: of the argument.
        known: all names.
        kind: what they name.

    Raises:
        ValueError: it is not.

    Example:
        >>> check_known("metric", "alhpa", ["alpha", "D"], "column")
        Traceback (most recent call last):
        ValueError: metric: there is no column 'alhpa'; did you mean 'alpha'?
    """
    if value not in known:
        raise ValueError(f"{name}: there is no {kind} {value!r}{did_you_mean(str(value), known)}")


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The end of a message about an unknown word: the most similar known one; empty if none is similar.

    Example:
        >>> did_you_mean("--ouput", ["--output", "--format"]), did_you_mean("xyz", ["--output"])
        ("; did you mean '--output'?", '')
    """
    similar = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {quoted(similar[0])}?" if similar else ""


def check_executor(name: str, value: object) -> None:
    """Check that a value is an executor, a client of Dask, or the name of an executor.

    Raises:
        TypeError: it has another type.
        ValueError: it is an unknown name.

    Example:
        >>> check_executor("executor", "fork")
        Traceback (most recent call last):
        ValueError: executor: expected one of 'process', 'thread', 'sync', got 'fork'
    """
    if isinstance(value, str):
        check_choice(name, value, ("process", "thread", "sync"))
    elif not isinstance(value, Executor) and not is_dask_client(value):
        raise TypeError(
            f'{name}: expected "process", "thread", "sync", a concurrent.futures.Executor or a distributed.Client, '
            f"got {value!r}"
        )


def is_dask_client(value: object) -> bool:
    """Whether a value is a ``distributed.Client``. Imports nothing.

    Example:
        >>> is_dask_client("tcp://scheduler:8786")
        False
    """
    return isinstance(value, getattr(sys.modules.get("distributed"), "Client", ()))


def check_callable(name: str, value: object) -> None:
    """Check that a value is callable or None.

    Raises:
        TypeError: it cannot be called.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name}: expected a function or None, got {value!r}")


def check_path(name: str, value: object, *, or_bool: bool = False) -> None:
    """Check that a value is a path or None.

    Args:
        name: of the argument.
        value: of the argument.
        or_bool: whether True and False are allowed too.

    Raises:
        TypeError: it has another type.
    """
    if value is None or (or_bool and isinstance(value, bool)):
        return
    if not isinstance(value, (str, os.PathLike)):
        expected = "a path, True, False" if or_bool else "a path"
        raise TypeError(f"{name}: expected {expected} or None, got {value!r}")


def check_places(log_dir: object, jsonl: object) -> None:
    """Check that ``log_dir`` and ``jsonl`` are places to write to.

    Raises:
        TypeError: one of them is not a path.
        ValueError: ``jsonl`` is True without a ``log_dir``.
    """
    check_path("log_dir", log_dir)
    check_path("jsonl", jsonl, or_bool=True)
    if jsonl is True and log_dir is None:
        raise ValueError("jsonl: True writes into log_dir, which is None; give log_dir or a file name")


def check_patterns(name: str, patterns: object) -> None:
    """Check that a value is None or a list of valid patterns of layer names.

    Raises:
        TypeError: ``patterns`` is not a list of strings.
        ValueError: it is empty, or one of them is.
    """
    if patterns is None:
        return
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f'{name}: expected a list of patterns such as ["encoder.*", "!head"], got {patterns!r}')
    if not patterns or not all(pattern.removeprefix("!") for pattern in patterns):
        raise ValueError(f"{name}: expected at least one pattern, none of them empty, got {patterns!r}")


def check_methods(name: str, value: object, methods: Sequence[str]) -> None:
    """Check that a value is an object with some methods, and not their class.

    Args:
        name: of the argument.
        value: of the argument.
        methods: what it must have, as it is called: "judge(history)".

    Raises:
        TypeError: it is a class, or has no such method.

    Example:
        >>> check_methods("signal", print, ["judge(history)"])
        Traceback (most recent call last):
        TypeError: signal: expected an object with judge(history), got <built-in function print>
    """
    expected = f"{name}: expected an object with {' and '.join(methods)}"
    if isinstance(value, type):
        raise TypeError(f"{expected}, got the class {value.__name__}: create one, {value.__name__}()")
    if not all(callable(getattr(value, method.partition("(")[0], None)) for method in methods):
        raise TypeError(f"{expected}, got {value!r}")


def check_outputs(name: str, value: object) -> None:
    """Check that a value is a list of outputs.

    Raises:
        TypeError: it is none, or something in it is no output.

    Example:
        >>> check_outputs("outputs", [print])
        Traceback (most recent call last):
        TypeError: outputs: expected an object with write(report, metrics, wall_time) and close(), got <built-in
        function print>
    """
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name}: expected a list of outputs, got {value!r}")
    for each in value:
        check_methods(name, each, ["write(report, metrics, wall_time)", "close()"])


def checked_step(step: Any) -> int:
    """A number of finished optimizer steps, as an int.

    Args:
        step: any kind of number, such as NumPy's.

    Raises:
        TypeError: it is no number.

    Example:
        >>> checked_step(None)
        Traceback (most recent call last):
        TypeError: step: expected the number of finished optimizer steps, got None
    """
    try:
        return int(step)
    except (TypeError, ValueError) as error:
        raise TypeError(f"step: expected the number of finished optimizer steps, got {step!r}") from error


def warn(message: str, *, depth: int = 1) -> None:
    """Warn the user about a fault that does not stop training.

    Python shows the same text of the same line only once per process. A second run with the same fault warns again.

    Args:
        message: a sentence.
        depth: how many calls up the place is that the warning names.
    """
    place = sys._getframe(depth)
    with above_bars():
        warnings.warn_explicit(
            f"ww_callbacks: {shown_text(message, LONGEST_WARNING)}",
            RuntimeWarning,
            place.f_code.co_filename,
            place.f_lineno,
            module=place.f_globals.get("__name__"),
        )


def warn_disabled(name: str, error: Exception) -> None:
    """Warn that something of the user's has raised and is not called again.

    Args:
        name: of it.
        error: what it raised.
    """
    warn(f"{name} is disabled: {type(error).__name__}: {error}", depth=2)
