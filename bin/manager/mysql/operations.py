"""Opening and closing a server, and its local rows: each step idempotent, each bounded.

Everything in the schema `autopilot` is done with sql_log_bin=0: it belongs to this server alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from manager.errors import MySQLError, NotClosed, ServerUnreachable
from manager.mysql.connection import Connection, quote_name
from manager.mysql.dialect import Dialect
from manager.mysql.replication import (
    drain,
    follow,
    forget_source,
    renew_source,
    start_replication,
    stop_channels,
    stop_io,
    stop_replication,
)
from manager.mysql.schema import TABLES, WATCHDOG_LOCK, watchdog
from manager.mysql.state import LocalRow, read_row

__all__ = [
    "change_row",
    "close_server",
    "drain",
    "enable_users_events",
    "follow",
    "forget_source",
    "let_hooks_write",
    "open_for_reading",
    "open_for_writing",
    "privileged_writes",
    "refresh_lease",
    "renew_source",
    "start_replication",
    "stop_channels",
    "stop_io",
    "stop_replication",
    "watchdog_runs",
]

# offline_mode took up to 3.2 s with 20 busy scans on 2 cores (facts/fencing.md G).
OFFLINE_TIME = 8.0
_LOCK_WAIT_TIMEOUT = 1205
_NO_SUCH_THREAD = 1094
# As offline_mode does: accounts with SUPER stay, and so do replicas, whose connections no client uses.
_CLIENTS = (
    "SELECT p.ID AS id FROM information_schema.PROCESSLIST p WHERE p.ID <> CONNECTION_ID()"
    " AND p.COMMAND NOT IN ('Binlog Dump', 'Binlog Dump GTID', 'Daemon')"
    " AND p.USER NOT IN ('system user', 'event_scheduler')"
    " AND NOT EXISTS (SELECT 1 FROM mysql.user u WHERE u.User = p.USER AND u.Super_priv = 'Y')"
)


def close_server(conn: Connection, *, read_only_timeout: float = 2.0) -> None:
    """Cut off all plain accounts at once, then make the server read-only, for privileged ones too.

    Raises NotClosed if it could not be made read-only within `read_only_timeout` seconds (something holds a
    lock, a commit waits, or the disk hangs): offline_mode is on by then. ServerUnreachable: nothing is known.
    A server without offline_mode cuts the clients that there are, and lets new ones in that can only read; one
    without super_read_only cannot keep accounts with SUPER from writing.
    """
    offline = conn.capabilities.offline_mode
    with conn.timeout(OFFLINE_TIME):
        if offline:
            conn.run("SET GLOBAL offline_mode = 1")
        else:
            _cut_clients(conn)
    _set_read_only(conn, read_only_timeout)
    if not offline:
        _cut_clients(conn)  # those who came in before it was read-only


def _cut_clients(conn: Connection) -> None:
    """Kill the connections of all plain accounts; they are gone a moment later."""
    for row in conn.rows(_CLIENTS):
        try:
            conn.run("KILL %s", (row["id"],))
        except MySQLError as error:
            if error.errno != _NO_SUCH_THREAD:
                raise


def _set_read_only(conn: Connection, seconds: float) -> None:
    """Set super_read_only, and read_only with it; waits for running statements and commits, NotClosed if too long.

    Without super_read_only it is read_only alone.
    """
    variable = "super_read_only" if conn.capabilities.super_read_only else "read_only"
    try:
        # The lock wait ends it on a healthy server; the answer's time limit where the disk hangs.
        conn.run("SET SESSION lock_wait_timeout = %s", (max(1, math.ceil(seconds)),))
        with conn.timeout(math.ceil(seconds) + 1.0):
            conn.run(f"SET GLOBAL {variable} = 1")
    except ServerUnreachable as error:
        raise NotClosed(f"{conn.peer}: no answer to {variable}: {error}", error.errno) from None
    except MySQLError as error:
        if error.errno != _LOCK_WAIT_TIMEOUT:
            raise
        raise NotClosed(
            f"{conn.peer}: not read-only after {seconds:.0f} s, something holds a lock", 1205
        ) from None


def let_hooks_write(conn: Connection) -> None:
    """Lift super_read_only alone: privileged accounts may write, read_only keeps everybody else from it."""
    if conn.capabilities.super_read_only:
        conn.run("SET GLOBAL super_read_only = 0")


def open_for_reading(conn: Connection) -> None:
    """Let clients in that can only read. NotClosed if the server cannot be made super_read_only first."""
    _set_read_only(conn, 2.0)
    _let_clients_in(conn)


def _let_clients_in(conn: Connection) -> None:
    if conn.capabilities.offline_mode:
        conn.run("SET GLOBAL offline_mode = 0")


def open_for_writing(
    conn: Connection, *, cluster_id: str, epoch: int, version: int, record: str, lease_s: float
) -> None:
    """Open the server as the primary of `epoch`; the caller holds its guard and has read the record again.

    The order makes each prefix of it safe: nobody but privileged accounts can write before read_only is off.
    The watchdog's first tick comes up to 1.1 s after super_read_only is off (measured), long before the lease
    ends; health sees whether it runs. A server that is open at this epoch already gets its lease, and its row
    and the watchdog if they are missing. Raises MySQLError if the watchdog cannot run.
    """
    let_hooks_write(conn)
    own = _own_row(conn)
    row = replace(own, cluster_id=cluster_id, epoch=epoch, version=version, opened_epoch=epoch, record=record)
    with unlogged(conn):
        _make_tables(conn)
        if row != own:
            _store_row(conn, row)
        _store_lease(conn, lease_s)
    if not watchdog_runs(conn):
        _make_watchdog(conn)
    conn.run("SET GLOBAL read_only = 0")
    _let_clients_in(conn)


def refresh_lease(conn: Connection, lease_s: float) -> None:
    """Let the watchdog keep the server open for `lease_s` seconds from now; never in the binlog."""
    with unlogged(conn):
        _store_lease(conn, lease_s)


def watchdog_runs(conn: Connection) -> bool:
    """True if the watchdog's loop is alive; within a second of an opening it may not have begun."""
    return conn.value("SELECT IS_USED_LOCK(%s)", (WATCHDOG_LOCK,)) is not None


def change_row(conn: Connection, change: Callable[[LocalRow], LocalRow]) -> None:
    """Store what this server's hooks have seen: what `change` makes of the row as it is now.

    The caller holds the guard, or nobody keeps another hook from writing between the look and the change.
    A super_read_only server is read_only alone meanwhile, so no plain account can write. NotClosed if it
    cannot be made super_read_only again within 2 s (the applier is in a long statement): the row is stored
    then, and `open_for_reading` tries again.
    """
    now = _own_row(conn)
    row = change(now)
    if row == now:
        return
    with privileged_writes(conn), unlogged(conn):
        _make_tables(conn)
        _store_row(conn, row)


@contextlib.contextmanager
def privileged_writes(conn: Connection) -> Iterator[None]:
    """Let privileged accounts write within the block, on a server that is otherwise super_read_only.

    read_only stays on, so no plain account can write. NotClosed if the server cannot be made super_read_only
    again within 2 s.
    """
    closed = conn.capabilities.super_read_only and bool(conn.value("SELECT @@global.super_read_only"))
    if closed:
        let_hooks_write(conn)
    try:
        yield
    finally:
        if closed:
            _set_read_only(conn, 2.0)


def enable_users_events(conn: Connection) -> list[str]:
    """Enable the events that ran on the old primary, on a server that is open now; returns their names.

    A replicated event stays disabled after a promotion. What its owner gave it is kept: ALTER EVENT would
    else take the definer, the SQL mode and the time zone of this session.
    """
    state = Dialect.of(conn.version).event_disabled_here
    events = conn.rows(
        "SELECT EVENT_SCHEMA AS db, EVENT_NAME AS name, DEFINER AS definer, SQL_MODE AS mode,"
        " TIME_ZONE AS zone"
        " FROM information_schema.EVENTS WHERE STATUS = %s AND EVENT_SCHEMA <> 'autopilot'"
        " ORDER BY EVENT_SCHEMA, EVENT_NAME",
        (state,),
    )
    if not events:
        return []
    before = conn.row("SELECT @@sql_mode AS mode, @@time_zone AS zone")
    assert before is not None
    for event in events:
        user, _, host = event["definer"].rpartition("@")
        conn.run("SET SESSION sql_mode = %s, time_zone = %s", (event["mode"], event["zone"]))
        name = f"{quote_name(event['db'])}.{quote_name(event['name'])}".replace("%", "%%")
        conn.run(f"ALTER DEFINER = %s@%s EVENT {name} ENABLE", (user, host))
    conn.run("SET SESSION sql_mode = %s, time_zone = %s", (before["mode"], before["zone"]))
    return [f"{event['db']}.{event['name']}" for event in events]


def _own_row(conn: Connection) -> LocalRow:
    uuid = str(conn.value("SELECT @@server_uuid"))
    return read_row(conn, server_uuid=uuid) or LocalRow(server_uuid=uuid)


@contextlib.contextmanager
def unlogged(conn: Connection) -> Iterator[None]:
    """Keep what is written within the block out of the binlog."""
    conn.run("SET SESSION sql_log_bin = 0")
    try:
        yield
    finally:
        # A lost session is reported by what is done in the block.
        with contextlib.suppress(ServerUnreachable):
            conn.run("SET SESSION sql_log_bin = 1")


def _make_tables(conn: Connection) -> None:
    """Make what init_file makes at the server's start, should somebody have dropped it since."""
    have = conn.value(
        "SELECT COUNT(*) FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = 'autopilot' AND TABLE_NAME IN ('node', 'lease')"
    )
    if have < 2:
        for statement in TABLES:
            conn.run(statement)


def _store_row(conn: Connection, row: LocalRow) -> None:
    """Store the row and remove what a clone brought from other servers."""
    values = (
        row.server_uuid,
        row.cluster_id,
        row.epoch,
        row.version,
        row.opened_epoch,
        row.events_epoch,
        row.priority,
        row.record,
    )
    conn.run(
        "REPLACE INTO autopilot.node (server_uuid, cluster_id, epoch, version, opened_epoch, events_epoch,"
        " priority, record) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        values,
    )
    conn.run("DELETE FROM autopilot.node WHERE server_uuid <> %s", (row.server_uuid,))


def _store_lease(conn: Connection, lease_s: float) -> None:
    until = "UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND"  # the same time wherever it stands in one statement
    conn.run(
        f"INSERT INTO autopilot.lease (id, until_ts) VALUES (1, {until}) ON DUPLICATE KEY UPDATE until_ts = {until}",
        (round(lease_s * 1_000_000),) * 2,
    )


def _make_watchdog(conn: Connection) -> None:
    """Make the event anew, for the account of this session."""
    if conn.value("SELECT @@global.event_scheduler") != "ON":
        raise MySQLError(f"{conn.peer}: event_scheduler is not ON, so no watchdog can run: not opening")
    with unlogged(conn):
        conn.run("DROP EVENT IF EXISTS autopilot.watchdog")
        conn.run(watchdog(conn.capabilities))
