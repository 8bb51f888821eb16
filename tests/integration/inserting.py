"""Writers of rows on one plain server, while it is copied."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Writers:
    """Threads that insert one row per transaction into app.t until the block ends."""

    def __init__(self, connect: Callable[[], Any], count: int) -> None:
        """`connect` opens a connection in autocommit mode."""
        self._connect = connect
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(count)]

    def _write(self, number: int) -> None:
        with self._connect() as connection, connection.cursor() as cursor:
            while not self._end.is_set():
                cursor.execute("INSERT INTO app.t (worker, text) VALUES (%s, REPEAT('x', 150))", (number,))

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
