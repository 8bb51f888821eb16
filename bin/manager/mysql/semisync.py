"""Semi-sync on one server: its two switches, the marker, and who may connect as a replica.

Each node replicates under an account of its own, named from its server_uuid. The accounts are local to the
primary (sql_log_bin=0): an account statement that waited for an acknowledgement would block every login, and
then nobody could acknowledge any more (measured, facts/semisync.md 3).
"""

from __future__ import annotations

from collections.abc import Mapping

from manager.errors import MySQLError, ReplicationFailed, ServerUnreachable
from manager.mysql.connection import Connection
from manager.mysql.dialect import Dialect
from manager.mysql.operations import unlogged
from manager.mysql.replication import stop_io
from manager.mysql.state import read_replication, read_semisync
from manager.waiting import Deadline, poll_until

PREFIX = "ap_"
MARKERS = 128
CONNECT_TIME = 3.0
_NO_SUCH_THREAD = 1094


def account(server_uuid: str) -> str:
    """The name of the account under which the server of that uuid replicates (32 characters at most)."""
    return PREFIX + server_uuid.replace("-", "")[:29]


def source_on(conn: Connection) -> bool:
    """True if commits wait for acknowledgements here."""
    state = read_semisync(conn)
    return state is not None and state.source_on


def set_source(conn: Connection, *, on: bool) -> None:
    """Let commits wait for acknowledgements, or no longer: switching it off acknowledges what waits."""
    conn.run(f"SET GLOBAL {Dialect.of(conn.version).semisync.source}_enabled = %s", (int(on),))


def set_replica(conn: Connection, *, on: bool) -> None:
    """Let the receiver acknowledge, or not, from its next start on; a running one is not affected."""
    conn.run(f"SET GLOBAL {Dialect.of(conn.version).semisync.replica}_enabled = %s", (int(on),))


def become_replica(conn: Connection) -> None:
    """Acknowledge nothing, and wait for nobody: an applier's commits would wait for replicas that never come.

    The receiver is stopped, and no client's commit waits: the server is read-only.
    """
    set_replica(conn, on=False)
    set_source(conn, on=False)


def restart_receiver(conn: Connection) -> None:
    """Stop and start the receiver, which takes the switch over; ReplicationFailed if it is not back in 3 s."""
    stop_io(conn)
    conn.run(Dialect.of(conn.version).start_receiver)

    def runs() -> bool:
        state = read_replication(conn)
        return state is not None and state.io_running == "Yes"

    if not poll_until(runs, Deadline(CONNECT_TIME), interval=0.02):
        raise ReplicationFailed(f"{conn.peer}: the receiver did not come back within {CONNECT_TIME:.0f} s")


def marker(conn: Connection, *, seconds: float) -> bool:
    """Commit a small row on a connection of its own; True if it was acknowledged within `seconds`.

    Whoever acknowledges it holds everything that was committed before. Each connection has a row of its own:
    an earlier marker may still wait, and hold its row's lock. After a False the connection is of no more use.
    """
    try:
        with conn.timeout(seconds):
            conn.run(
                "INSERT INTO autopilot.marker (id, at) VALUES (%s, UTC_TIMESTAMP(6))"
                " ON DUPLICATE KEY UPDATE at = UTC_TIMESTAMP(6)",
                (conn.connection_id % MARKERS,),
            )
    except ServerUnreachable:
        return False
    return True


def let_in(conn: Connection, server_uuid: str, password: str) -> str:
    """Make or unlock the account of a server, which connects with `password`; not logged. Returns its name.

    5.6 has room for 16 characters of it, which is no `account` that semi-sync would look for; it has none.
    """
    dialect = Dialect.of(conn.version)
    user = account(server_uuid)[: dialect.longest_user]
    # offline_mode would cut the replicas off together with the clients (measured).
    grants = f"REPLICATION SLAVE, {dialect.stays}" if conn.capabilities.offline_mode else "REPLICATION SLAVE"
    known = "SELECT 1 FROM mysql.user WHERE User = %s AND Host = '%%'"
    with unlogged(conn):
        if not dialect.user_statements and conn.row(known, (user,)):
            # Without rights on `mysql` itself one makes accounts there, and changes none.
            conn.run("DROP USER %s@'%%'", (user,))
        for statement in dialect.let_in(grants):
            conn.run(statement, {"user": user, "password": password})
    return user


def cut_off(conn: Connection, users: Mapping[str, bool], deadline: Deadline) -> None:
    """Lock accounts and kill all their connections until none is left; MySQLError if some remain.

    `users` are those of `accounts`, each with whether it is locked already. A locked account's connections go on,
    and go on acknowledging, until they are killed; once they are gone nothing late is counted (measured). So those
    of one that is locked already are killed like the others'.
    """
    wanted = sorted(users)
    with unlogged(conn):
        for user in wanted:
            if not users[user]:
                conn.run("ALTER USER IF EXISTS %s@'%%' ACCOUNT LOCK", (user,))

    def gone() -> bool:
        left = _connections(conn, wanted)
        for number in left:
            _kill(conn, number)
        return not left

    if wanted and not poll_until(gone, deadline):
        raise MySQLError(f"{conn.peer}: connections of {', '.join(wanted)} could not be ended")


def accounts(conn: Connection) -> dict[str, bool]:
    """Return the replication accounts of nodes on this server, and whether each is locked."""
    rows = conn.rows(
        "SELECT User AS name, account_locked AS locked FROM mysql.user WHERE User LIKE %s",
        (PREFIX.replace("_", "\\_") + "%",),
    )
    return {str(row["name"]): row["locked"] == "Y" for row in rows}


def _connections(conn: Connection, users: list[str]) -> list[int]:
    marks = ", ".join(["%s"] * len(users))
    rows = conn.rows(
        "SELECT PROCESSLIST_ID AS id FROM performance_schema.threads"
        f" WHERE PROCESSLIST_USER IN ({marks}) AND PROCESSLIST_ID IS NOT NULL",
        users,
    )
    return [int(row["id"]) for row in rows]


def _kill(conn: Connection, number: int) -> None:
    try:
        conn.run("KILL %s", (number,))
    except MySQLError as error:
        if error.errno != _NO_SUCH_THREAD:
            raise
