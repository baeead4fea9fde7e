"""The text of URLs: what is one, what of it may be shown, and the name at its end."""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from urllib.parse import unquote

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]+"
_URL = re.compile(rf"({_SCHEME}::)*{_SCHEME}://")
_CHAIN = re.compile(rf"::{_SCHEME}://")
_LOGIN = re.compile(r"(?<=://)([^\s/@:]*:(?!\d+/)[^\s@]*|[^\s/@]*)@")  # a password may contain a slash, a port does not
_QUERY = re.compile(r"(?<=://)([^\s?'\"]*)\?[^\s'\"]*")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL.

    Example:
        >>> is_url("s3://bucket/model.safetensors"), is_url("folder/model.safetensors")
        (True, False)
    """
    return isinstance(path, str) and _URL.match(path) is not None


def is_chain(url: str) -> bool:
    """Whether a URL is made up of several, such as that of a file in an archive at another URL.

    Example:
        >>> is_chain("zip://model.npz::s3://bucket/all.zip")
        True
    """
    return _CHAIN.search(url) is not None


def without_secrets(text: str) -> str:
    """A text whose URLs have no user, password or query, which often is a signature.

    Example:
        >>> without_secrets("s3://key:secret@bucket/model.npz"), without_secrets("https://host/model.npz?signature=1")
        ('s3://***@bucket/model.npz', 'https://host/model.npz')
    """
    return _QUERY.sub(r"\1", _LOGIN.sub("***@", text))


def secrets_in(url: str) -> list[str]:
    """What of a URL may not be shown, the longest first.

    Example:
        >>> secrets_in("ftp://user:word@host/model.npz")
        ['user:word', 'user', 'word']
    """
    login, query = _LOGIN.search(url), _QUERY.search(url)
    found = [login[1], *login[1].split(":", 1)] if login else []
    found += [query[0].partition("?")[2]] if query else []
    texts = dict.fromkeys(each for text in found if text for each in (text, unquote(text)))
    return sorted(texts, key=len, reverse=True)


def name_in(path: str | os.PathLike[str]) -> str:
    """The name of a file or a folder: the last part of its path or URL.

    Example:
        >>> name_in("https://host/runs/model.npz?signature=1"), name_in("runs/model.npz")
        ('model.npz', 'model.npz')
    """
    if is_url(path):
        return without_secrets(os.fspath(path)).partition("://")[2].rstrip("/").rpartition("/")[2]
    return PurePath(path).name
