"""Text from outside, such as the names of layers, in a form that is safe to show.

A name may hold anything: escape sequences of terminals, line breaks, marks that reverse the direction of writing,
surrogates that cannot be encoded, five thousand characters. Whatever shows text to people passes it through this
module. Results, JSON and look-ups keep the exact names.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence

LONGEST_NAME = 80
"""Maximal number of characters of a name in tables and sentences."""
LONGEST_TEXT = 500
"""Maximal number of characters of a sentence that holds text from outside, such as the message of an error."""
MOST_NAMES = 20
"""Maximal number of names in a list of names."""


def escaped(text: str) -> str:
    r"""Text with a backslash escape, as in Python, for each character that acts or cannot be seen, and for backslashes.

    Different texts stay different. Spaces are kept; all other white space is escaped.

    Example:
        >>> print(escaped("a\x1b[2J\n\u202eb\\n"))
        a\x1b[2J\n\u202eb\\n
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape(each) if each == "\\" or not each.isprintable() else each for each in text)


def shown_name(name: str, longest: int = LONGEST_NAME) -> str:
    r"""A name as tables and sentences show it: escaped, and a long one without its middle.

    Two long names that differ in the middle differ in the checksum at the end.

    Args:
        name: from outside.
        longest: maximal number of characters.

    Example:
        >>> shown_name("encoder.0"), shown_name("a\nb"), shown_name("x" * 5000, 20)
        ('encoder.0', 'a\\nb', 'xxxxx…xxxxx#00dbf026')
    """
    if len(name) <= longest and len(text := escaped(name)) <= longest:
        return text or "(no name)"
    return shortened(name, longest)


def shortened(name: str, longest: int, gap: str = "…", mark: str = "#") -> str:
    """The escaped beginning and end of a name, with its checksum.

    Args:
        name: from outside.
        longest: maximal number of characters, at least 16.
        gap: stands for what is left out.
        mark: stands before the checksum.
    """
    checksum = zlib.crc32(name.encode("utf-8", "surrogatepass"))
    room = longest - len(gap) - len(mark) - 8
    tail = room // 2
    return f"{escaped(name[:longest])[: room - tail]}{gap}{escaped(name[-longest:])[-tail:]}{mark}{checksum:08x}"


def shown_text(text: str, longest: int = LONGEST_TEXT) -> str:
    r"""A sentence that may hold text from outside: escaped except for backslashes, and cut at its end.

    Names in it that are escaped already stay as they are.

    Example:
        >>> shown_text("cannot read 'a\x1b'"), shown_text(shown_text("a\x1b")), shown_text("abcdef", 4)
        ("cannot read 'a\\x1b'", 'a\\x1b', 'abc…')
    """
    shown = text[: longest + 1]
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() else _escape(each) for each in shown)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def quoted(name: str) -> str:
    r"""A name in quotation marks, for messages.

    Example:
        >>> print(quoted("a\tb"))
        'a\tb'
    """
    return f"'{shown_name(name)}'"


def quoted_list(names: Sequence[str]) -> str:
    """A list of names for messages, with the first ones only if there are many.

    Example:
        >>> quoted_list(["fc1", "fc2"]), quoted_list(list(map(str, range(1000))))[-18:]
        ("['fc1', 'fc2']", "'19'] and 980 more")
    """
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"[{', '.join(map(quoted, names[:MOST_NAMES]))}]{more}"


def columns_of(text: str) -> int:
    r"""Number of columns of a terminal that an escaped text takes.

    Example:
        >>> columns_of("fc"), columns_of("層"), columns_of("e\u0301")
        (2, 2, 1)
    """
    return len(text) if text.isascii() else sum(map(_columns, text))


def padded(text: str, width: int) -> str:
    """A text with spaces at its end, in columns of a terminal.

    Example:
        >>> padded("層", 4)
        '層  '
    """
    return text + " " * (width - columns_of(text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
