"""The clients of a run: they insert rows, or append to lists, through the address that Consul gives."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import Literal

import pymysql

from faults.checker import Held
from faults.history import History, Operation, Row
from sandbox import writer
from sandbox.cluster import DATABASE, Cluster
from sandbox.node import Node

ROWS = "fault_rows"
LISTS = "fault_lists"
LIST_LENGTH = 50
READ_TIME = 60.0
# Of every second client's connections: who never looks again writes to an old primary alone.
LIFETIME = 1.0


class Client(writer.Writer):
    """One writer of a run. `append` makes it share lists with the others of its kind."""

    def __init__(
        self, cluster: Cluster, history: History, number: int, *, append: bool, pause: float
    ) -> None:
        super().__init__(
            cluster.catalogue,
            user=cluster.env["MYSQL_USER"],
            password=cluster.secrets["MYSQL_PASSWORD"],
            database=DATABASE,
            pause=pause,
            tell=self._remember,
            lifetime=LIFETIME if number % 2 else None,
        )
        self.number = number
        self._told = history
        self._kind: Literal["insert", "append"] = "append" if append else "insert"

    def tables(self) -> list[str]:
        """What all clients write to."""
        return [
            f"CREATE TABLE IF NOT EXISTS {ROWS}"
            " (writer INT, number INT, written_at DATETIME(6), PRIMARY KEY (writer, number))",
            f"CREATE TABLE IF NOT EXISTS {LISTS} (id INT PRIMARY KEY, items MEDIUMTEXT NOT NULL)",
        ]

    def statement(self, number: int) -> tuple[str, tuple[object, ...]]:
        """One row, or one more element at the end of a list."""
        if self._kind == "insert":
            return f"INSERT INTO {ROWS} VALUES (%s, %s, UTC_TIMESTAMP(6))", (self.number, number)
        element = f"{self.number}:{number}"
        return (
            f"INSERT INTO {LISTS} VALUES (%s, %s) AS new"
            f" ON DUPLICATE KEY UPDATE items = CONCAT({LISTS}.items, ',', new.items)",
            (number // LIST_LENGTH, element),
        )

    @property
    def running(self) -> Row:
        """What it is writing, or has written last."""
        return (self.number, self.next - 1)

    def _remember(self, told: writer.Operation) -> None:
        self._told.add(
            Operation(
                writer=self.number,
                number=told.number,
                kind=self._kind,
                key=told.number // LIST_LENGTH if self._kind == "append" else 0,
                begin=told.begin,
                end=told.end,
                outcome=told.outcome,
                server=told.server,
                error=told.error,
            )
        )


def read(node: Node) -> Held | None:
    """Return what a node's server holds, whether clients can log in there or not; None without an answer."""
    with contextlib.suppress(pymysql.MySQLError, OSError):
        rows = node.mysql(f"SELECT writer, number FROM {DATABASE}.{ROWS}", seconds=READ_TIME)
        lists = node.mysql(f"SELECT id, items FROM {DATABASE}.{LISTS}", seconds=READ_TIME)
        found: dict[int, list[Row]] = defaultdict(list)
        for one in lists:
            for element in one["items"].split(","):
                number, _, count = element.partition(":")
                found[one["id"]].append((int(number), int(count)))
        return Held(
            node=node.name,
            rows=frozenset((one["writer"], one["number"]) for one in rows),
            lists=found,
        )
    return None


def checksums(node: Node) -> str:
    """CHECKSUM TABLE of both tables; pymysql's errors as they are."""
    found = node.mysql(f"CHECKSUM TABLE {DATABASE}.{ROWS}, {DATABASE}.{LISTS}", seconds=READ_TIME)
    return " ".join(str(one["Checksum"]) for one in found)
