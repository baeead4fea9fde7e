"""Serves the page on this machine."""

from __future__ import annotations

import gzip
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from ww_callbacks.page.api import POLICY, Answer, Api
from ww_callbacks.page.files import TEXT

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost", "[::1]")
"""Names under which a browser may ask, with any port, as a tunnel has another one. A page of another host that lets its
name point to this machine gets nothing."""
SMALL = 1024
"""Bytes below which an answer is not compressed."""
_HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PageServer(ThreadingHTTPServer):
    """An HTTP server on 127.0.0.1 that answers what the page asks.

    Args:
        api: gives the answers.
        port: to listen on; 0 for a free one.

    Raises:
        OSError: the port is in use.
    """

    daemon_threads = True

    def __init__(self, api: Api, port: int = 0) -> None:
        self.api = api
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise OSError(f"port {port} of {HOST} cannot be used: {error.strerror}; leave --port out") from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = "ww_callbacks"
    sys_version = ""

    def do_GET(self) -> None:
        self._send(self._answer())

    def do_HEAD(self) -> None:
        self._send(self._answer(), with_body=False)

    def _answer(self) -> Answer:
        if not is_local(self.headers.get("Host", "")):
            return Answer(b"this server answers requests to localhost only", TEXT, 403)
        address = urlsplit(self.path)
        return self.server.api.answer(address.path.removeprefix("/"), address.query)

    def _send(self, answer: Answer, *, with_body: bool = True) -> None:
        body, headers = answer.body, {**_HEADERS, **answer.headers}
        if len(body) > SMALL and "gzip" in self.headers.get("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        self.send_response(answer.status)
        for name, value in (headers | {"Content-Type": answer.kind, "Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *words: object) -> None:
        """Write nothing for each request."""


def is_local(host: str) -> bool:
    """Whether a Host header names this machine.

    Example:
        >>> [
        ...     is_local(host)
        ...     for host in ("localhost:6006", "127.0.0.1", "[::1]:80", "evil.example", "127.0.0.1.evil.example")
        ... ]
        [True, True, True, False, False]
    """
    name, _, port = host.rpartition(":")
    return host in HOSTS or (name in HOSTS and port.isdigit())
