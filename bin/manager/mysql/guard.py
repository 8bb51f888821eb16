"""The guard: one named lock inside each server that keeps the runners of different nodes apart (SPEC 7).

Whatever changes a server's replication or opens it does so on the connection that holds the guard. A
process that was stopped and goes on later finds that connection killed, so it can do no more harm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from manager.errors import GuardBusy, GuardLost, MySQLError, ServerUnreachable
from manager.mysql.connection import Connection

LOCK = "autopilot"
_NO_SUCH_THREAD = 1094
_HOLDER = (
    "SELECT t.PROCESSLIST_ID AS id, COALESCE("
    " TIMESTAMPDIFF(MICROSECOND, CAST(v.VARIABLE_VALUE AS CHAR), UTC_TIMESTAMP(6)) / 1000000,"
    # Stopped between taking the lock and noting the time: idle since then.
    " t.PROCESSLIST_TIME, 0) AS age"
    " FROM performance_schema.threads t"
    " LEFT JOIN performance_schema.user_variables_by_thread v"
    " ON v.THREAD_ID = t.THREAD_ID AND v.VARIABLE_NAME = 'autopilot_guard'"
    " WHERE t.PROCESSLIST_ID = IS_USED_LOCK(%s)"
)
# Without performance_schema nobody reads another session's variables: it counts for how long the holder has been
# idle, or in one statement. One that was stopped is found by that as well.
_IDLE_HOLDER = (
    "SELECT ID AS id, COALESCE(TIME, 0) AS age"
    " FROM information_schema.PROCESSLIST WHERE ID = IS_USED_LOCK(%s)"
)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The connection that holds a server's guard, and for how many seconds it has."""

    connection_id: int
    age_s: float


@contextlib.contextmanager
def guard(conn: Connection, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the server's guard on `conn` within the block; GuardBusy if it is not free within `wait` seconds.

    The guard ends with the block, or with the connection. A lost connection is not reported at the end of
    the block: whoever depends on the guard asks `held` before it acts.
    """
    with conn.timeout(wait + max(1.0, conn.read_timeout)):
        got = conn.value("SELECT GET_LOCK(%s, %s)", (LOCK, wait))
    if got != 1:
        other = holder(conn)
        who = f"connection {other.connection_id} for {other.age_s:.1f} s" if other else "another connection"
        raise GuardBusy(
            f"{conn.peer}: its guard is held by {who}",
            holder=other.connection_id if other else None,
            age_s=other.age_s if other else None,
        )
    try:
        # Read by `holder` on other connections; the server keeps no time for its named locks.
        conn.run("SET @autopilot_guard = CAST(UTC_TIMESTAMP(6) AS CHAR)")
        yield
    finally:
        with contextlib.suppress(MySQLError):
            conn.run("DO RELEASE_LOCK(%s)", (LOCK,))


def held(conn: Connection) -> bool:
    """True if `conn` is alive and holds its server's guard."""
    try:
        return bool(conn.value("SELECT IS_USED_LOCK(%s) = CONNECTION_ID()", (LOCK,)))
    except ServerUnreachable:
        return False


def check_held(conn: Connection) -> None:
    """Raise GuardLost unless `conn` still holds its server's guard."""
    if not held(conn):
        raise GuardLost(f"{conn.peer}: its guard was taken away; what was frozen there counts no longer")


def holder(conn: Connection) -> Holder | None:
    """Return who holds the guard of the server that `conn` is connected to, or None if it is free."""
    row = conn.row(_HOLDER if conn.capabilities.performance_schema else _IDLE_HOLDER, (LOCK,))
    return Holder(connection_id=int(row["id"]), age_s=max(0.0, float(row["age"]))) if row else None


def kill_stale_guard(conn: Connection, *, older_than_s: float) -> int | None:
    """Kill the connection that has held the guard for more than `older_than_s` seconds; return its number.

    None if the guard is free, younger, or our own.
    """
    found = holder(conn)
    if found is None or found.connection_id == conn.connection_id:
        return None
    if found.age_s <= older_than_s:
        return None
    try:
        conn.run("KILL %s", (found.connection_id,))
    except MySQLError as error:
        if error.errno != _NO_SUCH_THREAD:
            raise
    return found.connection_id
