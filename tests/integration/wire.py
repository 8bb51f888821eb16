"""TCP wires that can be cut: between a replica and its source, and between hooks and a store."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time


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


class Line:
    """The network between hooks and a store: listens at `address`, leads to `target`, and can fail in between."""

    def __init__(
        self, address: str, target: str, *, port: int = 8333, target_port: int | None = None
    ) -> None:
        self._here, self._target = (address, port), (target, target_port or port)
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._left: int | None = None
        self._flows = threading.Event()
        self._listener: socket.socket | None = None
        self.rate = self.answer_rate = 0.0  # bytes a second, to the store and back; 0: as fast as it goes
        self.mend()

    @property
    def url(self) -> str:
        """What a store's URL is through this line."""
        return f"http://{self._here[0]}:{self._here[1]}"

    def mend(self) -> None:
        """All is well again, for those connections too that are still there."""
        self.rate, self.answer_rate, self._left = 0.0, 0.0, None
        self._flows.set()
        if self._listener is None:
            self._listener = socket.create_server(self._here)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self, after: int = 0) -> None:
        """End every connection in the middle, and every new one at once, when `after` more bytes have been sent."""
        self._left = after
        if not after:
            self._end_all()

    def freeze(self) -> None:
        """Let no byte through any more; nobody is told."""
        self._flows.clear()

    def refuse(self) -> None:
        """End every connection, and let nobody connect: what is left of a server that has died."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self._flows.set()
        self._end_all()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                with self._lock:
                    self._open.append(near)
                if self._left == 0:
                    self._end_all()
                    continue
                threading.Thread(target=self._lead, args=(near,), daemon=True).start()

    def _lead(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._target)
        except OSError:
            self._end(near)
            return
        with self._lock:
            self._open.append(far)
        threading.Thread(target=self._forward, args=(far, near, False), daemon=True).start()
        self._forward(near, far, True)

    def _forward(self, source: socket.socket, sink: socket.socket, sent: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                while data:
                    rate = self.rate if sent else self.answer_rate
                    piece = data[: int(rate / 10) + 1] if rate else data
                    data = data[len(piece) :]
                    if rate:
                        time.sleep(len(piece) / rate)
                    self._flows.wait()
                    if sent and self._left is not None:
                        piece = piece[: self._left]
                        self._left -= len(piece)
                    sink.sendall(piece)
                    if sent and self._left == 0:
                        self._end_all()
            sink.shutdown(socket.SHUT_WR)

    def _end_all(self) -> None:
        with self._lock:
            ended, self._open = self._open, []
        for one in ended:
            self._end(one)

    def _end(self, one: socket.socket) -> None:
        """Close it with a reset, as a dying host does; what waits for it wakes up."""
        with contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.shutdown(socket.SHUT_RD)
        one.close()
