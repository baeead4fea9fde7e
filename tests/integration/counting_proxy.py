"""A TCP proxy on this computer that counts the bytes it passes on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class CountingProxy:
    """Passes connections on to a port of 127.0.0.1, until it is closed.

    Attributes:
        port: on which it listens.
        count: bytes so far, in both directions.
    """

    def __init__(self, target: int) -> None:
        self._target, self._lock = target, threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.count = 0

    def __enter__(self) -> CountingProxy:
        _start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                _start(self._pass_on, client, server)
                _start(self._pass_on, server, client)

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):  # closed by the other side
            while data := source.recv(2**16):
                with self._lock:
                    self.count += len(data)
                to.sendall(data)
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _start(function: Callable[..., None], *arguments: socket.socket) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()
