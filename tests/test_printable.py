"""Any text in a form that is safe to show: harmless, short, and different for different names."""

import random
import sys

import pytest
from badnames import BAD_NAMES

from ww_callbacks.cli.output import to_csv
from ww_callbacks.printable import LONGEST_NAME, columns_of, escaped, padded, quoted_list, shown_name, shown_text
from ww_callbacks.report import LayerReport, Report
from ww_callbacks.report.keys import layer_key
from ww_callbacks.report.table import render_table

QUICK, FULL = 200, 10_000
PIECES = [name[:30] for name in BAD_NAMES] + [
    "\\",
    "\\n",
    "\n",
    "experts.1.w",
    " ",
    "",
    "é",
    "…",
    "#",
    "'",
    "\t=",
    "|",
    "x" * 90,
]


def any_name(choose: random.Random) -> str:
    """Pieces of names that act, and characters of every kind."""
    parts = [choose.choice(PIECES) for _ in range(choose.choice([0, 1, 1, 2, 3]))]
    parts += [chr(choose.randrange(choose.choice([0x20, 0x100, 0x3000, sys.maxunicode + 1])))] * choose.choice(
        [0, 1, 1, 60]
    )
    choose.shuffle(parts)
    return "".join(parts) * choose.choice([1, 1, 1, 1, 500])


def restored(text: str) -> str:
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape")


@pytest.mark.parametrize("number", [QUICK, pytest.param(FULL, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_any_name_is_harmless_short_and_told_from_others(number):
    names = list(dict.fromkeys(any_name(random.Random(f"name {index}")) for index in range(number)))
    shown: dict[str, str] = {}
    for name in names:
        text = shown_name(name)
        assert text.isprintable()
        assert text
        assert text.encode()
        assert len(text) <= LONGEST_NAME
        assert shown.setdefault(text, name) == name, ascii((name[:99], shown[text][:99]))
        assert restored(escaped(name)) == name
        assert shown_text(shown_text(name)) == shown_text(name)
        assert shown_text(name).isprintable()
        assert columns_of(padded(text, 200)) == 200
    for begin in range(0, len(names), 50):
        some = names[begin : begin + 50]
        layers = [LayerReport(name=name, kind=name[:9], N=9, M=9, rf=1, alpha=2.0 if name else None) for name in some]
        report = Report(tuple(layers))
        table = render_table(report.to_dicts(), report.summary(), None)
        assert all(line.isprintable() for line in table.split("\n"))
        assert quoted_list(some).isprintable()
        keys = [layer_key("alpha", index, name) for index, name in enumerate(some)]
        assert len(set(keys)) == len(some)
        assert max(map(len, keys)) <= 250
        lines = to_csv(["name"], report.to_dicts()).split("\n")
        assert len(lines) == len(some) + 1
        assert all(line.isprintable() and line[:1] not in tuple("=+-@") for line in lines)
        assert all(report[name].name == name for name in some)


def test_wide_and_combining_characters_count_as_a_terminal_shows_them():
    assert columns_of("層の") == 4
    assert columns_of("e\u0301e\u0301") == 2
    assert padded("層", 5) == "層   "
