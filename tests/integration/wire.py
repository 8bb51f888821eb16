"""A TCP wire between a replica and its source that can be cut in the middle of a transaction."""

from __future__ import annotations

import contextlib
import socket
import threading


class Wire:
    """Forwards address:port to the target; once armed, lets only so many bytes more through from there."""

    def __init__(self, address: str, target: str, port: int = 3306) -> None:
        self._target = (target, port)
        self._budget: int | None = None
        self._open: list[socket.socket] = []
        self.cut_off = threading.Event()
        self._listener = socket.create_server((address, port))
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, budget: int) -> None:
        """Stall after `budget` more bytes; `cut_off` is set then."""
        self._budget = budget

    def close(self) -> None:
        """End all connections, and take no new ones."""
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                threading.Thread(target=self._forward, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._forward, args=(far, near, True), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if counted and self._budget is not None:
                    data = data[: self._budget]
                    self._budget -= len(data)
                sink.sendall(data)
                if counted and self._budget == 0:
                    self.cut_off.set()
                    return
            sink.shutdown(socket.SHUT_WR)
