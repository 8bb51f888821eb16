"""Answers of HTTP servers that cannot trickle for ever: the libraries' own limits begin again with every byte."""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from manager.storage.base import CHUNK

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def bounded(base: Any, limit: Callable[[], float]) -> Any:
    """Return a kind of `base`, a library's class of connections, on which every wait has an end of `limit()` seconds.

    The libraries send a body under the time limit for connecting: too short for a slow network, or a busy server.
    """

    class Connection(base):  # type: ignore[misc]  # whichever it is
        response_class = answers_within(limit)

        def endheaders(self, *args: Any, **options: Any) -> None:
            super().endheaders(*args, **options)
            self.sock.settimeout(limit())

    return Connection


def answers_within(limit: Callable[[], float]) -> type[http.client.HTTPResponse]:
    """Return a connection's `response_class` that raises TimeoutError while it waits for a server that is too slow.

    That is one whose next CHUNK bytes, headers among them, have been waited for longer than `limit()` seconds.
    """

    class Answer(http.client.HTTPResponse):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.fp = io.BufferedReader(_Bounded(self.fp.detach(), limit()))

    return Answer


class _Bounded(io.RawIOBase):
    """What a connection receives. The time between two reads is the reader's, and does not count."""

    def __init__(self, raw: io.RawIOBase, limit: float) -> None:
        super().__init__()
        self._raw = raw
        self._limit = limit
        self._received = 0
        self._waited = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        if self._waited > self._limit:
            raise TimeoutError(f"timed out: {self._received} bytes in {self._waited:.0f} seconds")
        begin = time.monotonic()
        count = self._raw.readinto(buffer)
        self._waited += time.monotonic() - begin
        self._received += count or 0
        if self._received >= CHUNK:
            self._received, self._waited = 0, 0.0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
