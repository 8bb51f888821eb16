"""The definitions of what a server's users have made: schemas, tables, views, routines, triggers and events.

Not left to mydumper 0.10.1, which knows neither the SQL mode of a routine nor the time zone of an event, and whose
tables with a generated column of JSON cannot be loaded (measured).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from manager.errors import MySQLError, SnapshotError
from manager.mysql.connection import Connection, quote_name
from manager.mysql.schema import SCHEMA

# What is in these belongs to one server, or is made by it.
SYSTEM_SCHEMAS = ("information_schema", "mysql", "performance_schema", "sys")
USERS_OWN = f"NOT IN ({', '.join(repr(name) for name in (*SYSTEM_SCHEMAS, SCHEMA))})"
_COUNTER = re.compile(r" AUTO_INCREMENT=\d+")
# A view that uses another one, or something that is not there yet.
_TRY_LATER = frozenset({1146, 1305, 1356})
_VIEW_IS_INVALID = 1356
# Modes of 5.6 and 5.7 that 8.0 does not take (1231); they did nothing, or stood for others that are named beside.
_GONE_MODES = (
    *("DB2", "MAXDB", "MSSQL", "MYSQL323", "MYSQL40", "ORACLE", "POSTGRESQL", "NO_AUTO_CREATE_USER"),
    *("NO_FIELD_OPTIONS", "NO_KEY_OPTIONS", "NO_TABLE_OPTIONS"),
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; `create` is the statement that makes it."""

    schema: str
    name: str
    engine: str
    create: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """A view, or what runs in the server: `kind` is VIEW, FUNCTION, PROCEDURE, TRIGGER or EVENT.

    `create` is the statement that makes it, in the character set `client`; a byte that is no UTF-8 is a surrogate in
    it (PEP 383). `connection` and `database` are the collations that it was made under, `sql_mode` and `time_zone`
    what it runs with; empty where it has none.
    """

    kind: str
    schema: str
    name: str
    create: str
    client: str
    connection: str
    database: str = ""
    sql_mode: str = ""
    time_zone: str = ""


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """All of a server's; `schemas` are the names with the statements that make them."""

    schemas: dict[str, str]
    tables: list[Table]
    programs: list[Program]

    def same_as(self, other: Definitions) -> bool:
        """True if they differ in nothing but counters, which grow with the rows."""
        return (
            self.schemas == other.schemas
            and self.programs == other.programs
            and self._without_counters() == other._without_counters()
        )

    def _without_counters(self) -> list[Table]:
        return [replace(table, create=_COUNTER.sub("", table.create)) for table in self.tables]


def read_definitions(conn: Connection) -> Definitions:
    """Return the definitions of all schemas but the system's and the hooks' own.

    SnapshotError if a view is invalid, so that nobody could make it again; MySQLError if something vanishes meanwhile.
    """
    # A literal default of a TIMESTAMP is shown in the session's time zone.
    conn.run("SET SESSION sql_quote_show_create = 1, time_zone = '+00:00'")
    schemas = [
        str(row["name"])
        for row in conn.rows(
            "SELECT SCHEMA_NAME AS name FROM information_schema.SCHEMATA"
            f" WHERE SCHEMA_NAME {USERS_OWN} ORDER BY SCHEMA_NAME"
        )
    ]
    return Definitions(
        schemas={name: _shown(conn, "DATABASE", quote_name(name))["Create Database"] for name in schemas},
        tables=list(_read_tables(conn)),
        programs=[_read_program(conn, *each) for each in _program_names(conn)],
    )


def _read_tables(conn: Connection) -> Iterator[Table]:
    for row in _named(conn, "TABLES", "TABLE", "TABLE_TYPE = 'BASE TABLE'", more=", ENGINE AS engine"):
        schema, name = str(row["db"]), str(row["name"])
        shown = _shown(conn, "TABLE", f"{quote_name(schema)}.{quote_name(name)}")
        yield Table(schema=schema, name=name, engine=str(row["engine"]), create=shown["Create Table"])


def _program_names(conn: Connection) -> Iterator[tuple[str, str, str]]:
    """Kind, schema and name of each, in an order in which they can be made."""
    for kind in ("FUNCTION", "PROCEDURE"):
        for row in _named(conn, "ROUTINES", "ROUTINE", f"ROUTINE_TYPE = '{kind}'"):
            yield kind, str(row["db"]), str(row["name"])
    for row in _named(conn, "TABLES", "TABLE", "TABLE_TYPE = 'VIEW'"):
        yield "VIEW", str(row["db"]), str(row["name"])
    # Of several for one event of a table the order counts.
    for row in _named(conn, "TRIGGERS", "TRIGGER", "TRUE", order="ACTION_ORDER, "):
        yield "TRIGGER", str(row["db"]), str(row["name"])
    for row in _named(conn, "EVENTS", "EVENT", "TRUE"):
        yield "EVENT", str(row["db"]), str(row["name"])


def _named(
    conn: Connection, what: str, prefix: str, condition: str, *, order: str = "", more: str = ""
) -> list[dict[str, Any]]:
    return conn.rows(
        f"SELECT {prefix}_SCHEMA AS db, {prefix}_NAME AS name{more} FROM information_schema.{what}"
        f" WHERE {prefix}_SCHEMA {USERS_OWN} AND {condition} ORDER BY {order}{prefix}_SCHEMA, {prefix}_NAME"
    )


def _read_program(conn: Connection, kind: str, schema: str, name: str) -> Program:
    if kind == "VIEW":
        _check_view(conn, schema, name)
    # As the server has it: converted, it would no longer fit the character set that is noted beside it.
    conn.run("SET SESSION character_set_results = binary")
    try:
        shown = _shown(conn, kind, f"{quote_name(schema)}.{quote_name(name)}")
    finally:
        conn.run("SET SESSION character_set_results = utf8mb4")
    statement = "SQL Original Statement" if kind == "TRIGGER" else f"Create {kind.capitalize()}"
    return Program(
        kind=kind,
        schema=schema,
        name=name,
        create=shown[statement],
        client=shown["character_set_client"],
        connection=shown["collation_connection"],
        database=shown.get("Database Collation", ""),
        sql_mode=shown.get("sql_mode", ""),
        time_zone=shown.get("time_zone", ""),
    )


def _shown(conn: Connection, kind: str, name: str) -> dict[str, str]:
    row = conn.row(f"SHOW CREATE {kind} {name}")
    assert row is not None
    return {
        key: value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)
        for key, value in row.items()
    }


def _check_view(conn: Connection, schema: str, name: str) -> None:
    try:
        conn.run(f"SHOW COLUMNS FROM {quote_name(schema)}.{quote_name(name)}")
    except MySQLError as error:
        if error.errno == _VIEW_IS_INVALID:
            raise SnapshotError(
                f"the view {schema}.{name} is invalid, so nobody could make it again: repair or drop it"
            ) from None
        raise


def make_tables(conn: Connection, definitions: Definitions) -> None:
    """Make the schemas and tables on an empty server; SnapshotError, naming it, for one that cannot be made."""
    # What the source had was allowed there; no file outside of the data directory.
    conn.run("SET SESSION foreign_key_checks = 0, innodb_strict_mode = 0, time_zone = '+00:00'")
    conn.run("SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION,NO_DIR_IN_CREATE'")
    for schema, create in definitions.schemas.items():
        _make(conn, f"the schema {schema}", create)
    for table in definitions.tables:
        conn.run(f"USE {quote_name(table.schema)}")
        _make(conn, f"the table {table.schema}.{table.name}", table.create)


def make_programs(conn: Connection, definitions: Definitions) -> None:
    """Make views, routines, triggers and events, the events as a replica has them: enabled by a promotion.

    SnapshotError, naming it, for one that cannot be made.
    """
    left = definitions.programs
    while left:
        later, reason = [], ""
        for program in left:
            try:
                _make_program(conn, program)
            except MySQLError as error:
                if program.kind != "VIEW" or error.errno not in _TRY_LATER:
                    raise _not_made(_title(program), error) from None
                later.append(program)
                reason = reason or str(_not_made(_title(program), error))
        if len(later) == len(left):
            raise SnapshotError(reason)
        left = later


def _make_program(conn: Connection, program: Program) -> None:
    conn.run(f"USE {quote_name(program.schema)}")
    before = _collation(conn, program.schema)
    with_database = program.database not in ("", before)
    if with_database:
        _collate(conn, program.schema, program.database)
    try:
        mode = _known_modes(program.sql_mode, conn.version) if program.kind != "VIEW" else ""
        conn.run("SET SESSION sql_mode = %s, time_zone = %s", (mode, program.time_zone or "+00:00"))
        conn.run(
            "SET SESSION character_set_client = %s, collation_connection = %s",
            (program.client, program.connection),
        )
        try:
            conn.run(program.create)
        finally:
            conn.run("SET NAMES utf8mb4")
        if program.kind == "EVENT":
            _disable_event(conn, program)
    finally:
        if with_database:
            _collate(conn, program.schema, before)


def _disable_event(conn: Connection, event: Program) -> None:
    """As if it had come through replication; it keeps its definer, SQL mode and time zone."""
    row = conn.row(
        "SELECT DEFINER AS definer FROM information_schema.EVENTS"
        " WHERE EVENT_SCHEMA = %s AND EVENT_NAME = %s AND STATUS = 'ENABLED'",
        (event.schema, event.name),
    )
    if row is not None:
        user, _, host = str(row["definer"]).rpartition("@")
        name = quote_name(event.name).replace("%", "%%")
        conn.run(f"ALTER DEFINER = %s@%s EVENT {name} DISABLE ON SLAVE", (user, host))


def _collation(conn: Connection, schema: str) -> str:
    sql = "SELECT DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s"
    return str(conn.value(sql, (schema,)))


def _collate(conn: Connection, schema: str, collation: str) -> None:
    conn.run(f"ALTER DATABASE {quote_name(schema)} COLLATE {collation}")


def _known_modes(modes: str, version: str) -> str:
    if version.startswith("5."):
        return modes
    return ",".join(mode for mode in modes.split(",") if mode not in _GONE_MODES)


def _make(conn: Connection, what: str, create: str) -> None:
    try:
        conn.run(create)
    except MySQLError as error:
        raise _not_made(what, error) from None


def _not_made(what: str, error: MySQLError) -> SnapshotError:
    return SnapshotError(f"{what} cannot be made here: {error}")


def _title(program: Program) -> str:
    return f"the {program.kind.lower()} {program.schema}.{program.name}"
