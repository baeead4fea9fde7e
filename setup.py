"""The README as package indexes show it. Everything else is in setup.cfg."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
PICTURE = re.compile(r"!\[[^\]]*\]\((?!https?://)[^)]*\)\n+")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?://|#)[^)]*\)")
TARGET = re.compile(r"(!?\[[^\]]*\]\()(?!https?://|#)([^)]*\))")


def for_index(readme: str, source: str) -> str:
    """A README without pictures and links whose files an index does not have.

    Args:
        readme: whose links are relative to the root of the repository.
        source: address of the repository, where they lead instead; empty if it has none.
    """
    if source:
        return TARGET.sub(
            lambda found: f"{found[1]}{source}/{'raw' if found[1][0] == '!' else 'blob'}/HEAD/{found[2]}", readme
        )
    return LINK.sub(r"\1", PICTURE.sub("", readme))


def source_of(settings: ConfigParser) -> str:
    """The entry "Source" of ``project_urls``; empty if there is none."""
    lines = settings.get("metadata", "project_urls", fallback="").splitlines()
    urls = dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in lines if line.strip())
    return urls.get("Source", "").rstrip("/")


if __name__ == "__main__":
    settings = ConfigParser()
    settings.read(HERE / "setup.cfg", encoding="utf-8")
    setup(long_description=for_index((HERE / "README.md").read_text(encoding="utf-8"), source_of(settings)))
