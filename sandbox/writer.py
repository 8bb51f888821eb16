"""A client as an application should be: it finds the primary in Consul, and remembers what it was told.

Every row has a number of its own that is never used twice. What became of it is one of three things:
acknowledged (the server said so), failed (it certainly was not written), unknown (no answer).
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pymysql
from pymysql.constants import CR

from sandbox.health import Endpoint

TABLE = "sandbox_rows"
# The server refused the statement, which did nothing: read-only (1290, 1792, 1836), no such table or no
# right to it (1142, 1146), lock wait or deadlock (1205, 1213). Any other error says nothing about the row.
REFUSED = (1142, 1146, 1205, 1213, 1290, 1792, 1836)

# As an application has it: to make one takes 20 ms, and PyMySQL would for each connection.
_TLS = ssl.create_default_context()
_TLS.check_hostname = False
_TLS.verify_mode = ssl.CERT_NONE

Outcome = Literal["acknowledged", "failed", "unknown"]


class Finder(Protocol):
    """Whoever knows the primary: Consul's catalogue, or the members of a group."""

    @property
    def primary(self) -> Endpoint | None:
        """Where the primary is, None while nobody is."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One row, told whole: monotonic seconds, and the server_uuid of the server that was asked."""

    number: int
    begin: float
    end: float
    outcome: Outcome
    server: str
    error: str = ""


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
        self,
        catalogue: Finder,
        *,
        user: str,
        password: str,
        database: str,
        pause: float = 0.005,
        tell: Callable[[Operation], None] | None = None,
        lifetime: float | None = None,
        first: int = 1,
    ) -> None:
        """`pause` is the time between two rows, in seconds; `tell` is called after each of them; they are numbered
        from `first` on.

        After `lifetime` seconds it looks the primary up again, as connection pools do; None: only when a
        statement fails.
        """
        self.history = History()
        self._catalogue = catalogue
        self._tell = tell
        self._user, self._password, self._database = user, password, database
        self._pause = pause
        self._lifetime = lifetime
        self.next = first
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def create_table(self) -> None:
        """Create the table on the primary; pymysql's errors as they are."""
        primary = self._catalogue.primary
        if primary is None:
            raise ConnectionError("there is no healthy primary")
        with self._connect(primary) as connection, connection.cursor() as cursor:
            for statement in self.tables():
                cursor.execute(statement)

    def tables(self) -> list[str]:
        """The statements that make what is written to."""
        return [f"CREATE TABLE IF NOT EXISTS {TABLE} (n BIGINT PRIMARY KEY, written_at DATETIME(6))"]

    def statement(self, number: int) -> tuple[str, tuple[object, ...]]:
        """The statement that writes a row, and its arguments."""
        return f"INSERT INTO {TABLE} VALUES (%s, UTC_TIMESTAMP(6))", (number,)

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
        """Write until a statement fails, or the connection has lived for its time."""
        end = time.monotonic() + (self._lifetime if self._lifetime is not None else math.inf)
        try:
            connection = self._connect(primary)
        except pymysql.MySQLError:
            return
        try:
            with connection.cursor() as cursor:
                server = _server_uuid(cursor)
                while server and time.monotonic() < end and not self._stopping.is_set():
                    if not self._insert(cursor, server):
                        return
                    self._stopping.wait(self._pause)
        finally:
            connection.close() if connection.open else None

    def _insert(self, cursor: Any, server: str) -> bool:
        number = self.next
        self.next += 1
        outcome: Outcome = "acknowledged"
        told = ""
        begin = time.monotonic()
        try:
            cursor.execute(*self.statement(number))
        except pymysql.MySQLError as error:
            refused = bool(error.args) and error.args[0] in REFUSED
            outcome, told = ("failed" if refused else "unknown"), str(error)
        end = time.monotonic()
        if outcome == "acknowledged":
            self.history.acknowledged[number] = end
        else:
            (self.history.failed if outcome == "failed" else self.history.unknown).add(number)
        if self._tell is not None:
            self._tell(Operation(number, begin, end, outcome, server, told))
        return outcome == "acknowledged"

    def _connect(self, endpoint: Endpoint) -> Any:
        try:
            return self._log_in(endpoint, ssl=_TLS)
        except pymysql.MySQLError as error:
            if error.args[0] != CR.CR_SSL_CONNECTION_ERROR:
                raise
        return self._log_in(endpoint, ssl_disabled=True)

    def _log_in(self, endpoint: Endpoint, **options: Any) -> Any:
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
            **options,
        )


def _server_uuid(cursor: Any) -> str | None:
    try:
        cursor.execute("SELECT @@server_uuid")
        return str(cursor.fetchone()[0])
    except pymysql.MySQLError:
        return None
