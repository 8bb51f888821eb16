"""A client as an application should be: it finds the primary in Consul, and remembers what it was told.

Every row has a number of its own that is never used twice. What became of it is one of three things:
acknowledged (the server said so), failed (it certainly was not written), unknown (no answer).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pymysql

from sandbox.health import Catalogue, Endpoint

TABLE = "sandbox_rows"
# The server refused the statement, which did nothing: read-only (1290, 1792, 1836), no such table or no
# right to it (1142, 1146), lock wait or deadlock (1205, 1213). Any other error says nothing about the row.
REFUSED = (1142, 1146, 1205, 1213, 1290, 1792, 1836)


@dataclass
class History:
    """What the writer did: numbers of rows, and when (monotonic seconds) each acknowledgement came."""

    acknowledged: dict[int, float] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)

    def gap(self, since: float) -> float | None:
        """The longest time without an acknowledgement, from the last one before `since` on, in seconds.

        None if there was none before, or none after.
        """
        times = list(self.acknowledged.values())
        before = [moment for moment in times if moment <= since]
        after = [moment for moment in times if moment > since]
        if not before or not after:
            return None
        pairs = zip([before[-1], *after], after, strict=False)
        return max(later - earlier for earlier, later in pairs)

    def missing(self, present: set[int]) -> set[int]:
        """Acknowledged rows that are not there."""
        return set(self.acknowledged) - present

    def unexpected(self, present: set[int]) -> set[int]:
        """Rows that are there although they certainly failed, or were never written."""
        return present - set(self.acknowledged) - self.unknown


class Writer:
    """Inserts rows one after the other in a thread of its own, from `start` to `stop`."""

    def __init__(
        self, catalogue: Catalogue, *, user: str, password: str, database: str, pause: float = 0.005
    ) -> None:
        """`pause` is the time between two rows, in seconds."""
        self.history = History()
        self._catalogue = catalogue
        self._user, self._password, self._database = user, password, database
        self._pause = pause
        self._number = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def create_table(self) -> None:
        """Create the table on the primary; pymysql's errors as they are."""
        primary = self._catalogue.primary
        if primary is None:
            raise ConnectionError("there is no healthy primary")
        with self._connect(primary) as connection, connection.cursor() as cursor:
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {TABLE} (n BIGINT PRIMARY KEY, written_at DATETIME(6))"
            )

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the row that is being written; the history is complete then."""
        self._stopping.set()
        self._thread.join()

    def read(self, endpoint: Endpoint) -> set[int]:
        """The numbers that one server shows; pymysql's errors as they are."""
        with self._connect(endpoint) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT n FROM {TABLE}")
            return {int(row[0]) for row in cursor.fetchall()}

    def _run(self) -> None:
        while not self._stopping.is_set():
            primary = self._catalogue.primary
            if primary is not None:
                self._write_to(primary)
            self._stopping.wait(0.05)

    def _write_to(self, primary: Endpoint) -> None:
        """Write until a statement fails."""
        try:
            connection = self._connect(primary)
        except pymysql.MySQLError:
            return
        try:
            with connection.cursor() as cursor:
                while not self._stopping.is_set():
                    if not self._insert(cursor):
                        return
                    self._stopping.wait(self._pause)
        finally:
            connection.close() if connection.open else None

    def _insert(self, cursor: Any) -> bool:
        self._number += 1
        number = self._number
        try:
            cursor.execute(f"INSERT INTO {TABLE} VALUES (%s, UTC_TIMESTAMP(6))", (number,))
        except pymysql.MySQLError as error:
            refused = bool(error.args) and error.args[0] in REFUSED
            (self.history.failed if refused else self.history.unknown).add(number)
            return False
        self.history.acknowledged[number] = time.monotonic()
        return True

    def _connect(self, endpoint: Endpoint) -> Any:
        return pymysql.connect(
            host=endpoint.address,
            port=endpoint.port,
            autocommit=True,
            connect_timeout=1,
            read_timeout=2,
            write_timeout=2,
            user=self._user,
            password=self._password.encode(),
            database=self._database,
        )
