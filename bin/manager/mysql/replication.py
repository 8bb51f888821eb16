"""Starting, stopping and re-pointing replication without losing what was received.

Measured for 9.7.4 in facts/semisync.md D and facts/fencing.md A.
"""

from __future__ import annotations

from collections.abc import Iterable

from manager.errors import MySQLError, ReplicationFailed
from manager.mysql.connection import Connection
from manager.mysql.dialect import Dialect
from manager.mysql.state import Channel, ReplicationState, read_replication
from manager.waiting import Deadline, pause, poll_until

CONNECT_TIME = 8.0
STOP_TIME = 10.0
SETTLE_TIME = 2.0
WAKE_TIME = 0.1
_STOP_TIMEOUT = 1875
_NO_SUCH_THREAD = 1094
_LOST = ", which a change of the source would throw away"
_HALF = (
    "SELECT APPLYING_TRANSACTION AS gtid FROM performance_schema.replication_applier_status_by_worker"
    " WHERE CHANNEL_NAME = '' AND SERVICE_STATE = 'ON' AND APPLYING_TRANSACTION LIKE '%:%'"
    " AND NOT GTID_SUBSET(APPLYING_TRANSACTION, @@global.gtid_executed)"
)
_COORDINATOR = (
    "SELECT t.PROCESSLIST_ID FROM performance_schema.threads t"
    " JOIN performance_schema.replication_applier_status_by_coordinator c USING (THREAD_ID)"
    " WHERE c.CHANNEL_NAME = ''"
)
# Without performance_schema, by what the thread that hands out work says of itself.
_READER = (
    "SELECT ID FROM information_schema.PROCESSLIST"
    " WHERE USER = 'system user' AND STATE LIKE '%has read all relay log%'"
)
# A receiver that connects to a host that is gone cannot be stopped before that fails: 3 to 5 s, measured when a
# container was killed. By the time of its second try a failover has stopped it.
CONNECT_RETRY = 4


def follow(
    conn: Connection,
    *,
    host: str,
    port: int,
    user: str,
    password: str,
    auto_position: bool = True,
    tls: bool = True,
) -> None:
    """Replicate from host:port; returns once the source there has begun to send. `tls`: that server has TLS.

    What was received from the former source and is not applied yet is never thrown away: the applier keeps
    running while the source is changed. Does nothing if replication from there runs already. Raises
    ReplicationFailed with the server's own reason if it does not get going within 8 s, or if an applier that
    stopped with an error still holds received transactions.
    """
    before = read_replication(conn)
    if before and _runs(before, host, port, user):
        return
    dialect = Dialect.of(conn.version)
    stop_io(conn)
    options: dict[str, object] = {
        "HOST": host,
        "PORT": port,
        "USER": user,
        "PASSWORD": password,
        "CONNECT_RETRY": CONNECT_RETRY,
        "RETRY_COUNT": 86400,
        "HEARTBEAT_PERIOD": 1,
        "SSL": int(tls and conn.capabilities.tls),
    }
    if dialect.public_key:
        options["GET_PUBLIC_KEY"] = 1
    keep = bool(before) and _keep_applier_running(conn, auto_position)
    if keep and not dialect.source_changes_beneath_applier:
        if not drain(conn, Deadline(SETTLE_TIME)):
            raise ReplicationFailed(f"{conn.peer}: the applier still holds received transactions{_LOST}")
        keep = False
    if not keep:
        stop_replication(conn)
        options["AUTO_POSITION"] = int(auto_position)
    sql, values = dialect.change(options)
    with conn.timeout(STOP_TIME):
        conn.run(sql, values)
        conn.run(dialect.start_replica)
    _wait_connected(conn, host, port)


def _runs(state: ReplicationState, host: str, port: int, user: str) -> bool:
    same = (state.source_host, state.source_port, state.source_user) == (host, port, user)
    return same and state.io_running == "Yes" and state.sql_running and state.auto_position


def _keep_applier_running(conn: Connection, auto_position: bool) -> bool:
    """Start the applier if there is something to apply; True if the source must change beneath it."""
    state = read_replication(conn)
    if state is None or state.applied_all or state.auto_position != auto_position:
        return False
    if not state.sql_running:
        _start_applier(conn)
        # What it says in its first moment is no proof; an empty relay log is read in no time.
        poll_until(lambda: _idle_or_failed(conn), Deadline(SETTLE_TIME))
        state = read_replication(conn)
    if state is None or state.applied_all:
        return False
    if not state.sql_running:
        raise ReplicationFailed(
            f"{conn.peer}: the applier stopped ({state.sql_errno}: {state.sql_error}) and still holds"
            f" received transactions{_LOST}",
            state.sql_errno,
        )
    return True


def _idle_or_failed(conn: Connection) -> bool:
    state = read_replication(conn)
    return state is None or state.applied_all or not state.sql_running


def _wait_connected(conn: Connection, host: str, port: int) -> None:
    last: list[ReplicationState | None] = [None]

    def settled() -> bool:
        state = last[0] = read_replication(conn)
        # "No" with an error is final; while "Connecting" the server tries again each second.
        return state is None or _receives(state) or (state.io_running == "No" and state.io_errno != 0)

    poll_until(settled, Deadline(CONNECT_TIME), interval=0.02)
    state = last[0]
    if state is None:
        raise ReplicationFailed(f"{conn.peer}: replication from {host}:{port} is not configured")
    if not _receives(state):
        why = state.io_error or "no answer from there"
        raise ReplicationFailed(f"{conn.peer}: no replication from {host}:{port}: {why}", state.io_errno)
    if state.sql_errno:
        raise ReplicationFailed(f"{conn.peer}: the applier stopped: {state.sql_error}", state.sql_errno)


def _receives(state: ReplicationState) -> bool:
    """Connected, and the source has accepted the position; "Yes" alone is said before it refuses, too."""
    return state.io_running == "Yes" and bool(state.source_log_file)


def start_replication(conn: Connection) -> None:
    """Start both threads with the source that is configured; ReplicationFailed if the applier stops again."""
    dialect = Dialect.of(conn.version)
    with conn.timeout(STOP_TIME):
        conn.run(dialect.start_replica)
    state = read_replication(conn)
    if state is None:
        raise ReplicationFailed(f"{conn.peer}: replication is not configured")
    if not state.sql_running:
        raise ReplicationFailed(f"{conn.peer}: the applier stopped: {state.sql_error}", state.sql_errno)


def stop_io(conn: Connection) -> None:
    """Stop receiving; once this returns nothing more arrives. ReplicationFailed if it goes on after all."""
    with conn.timeout(STOP_TIME):
        conn.run(Dialect.of(conn.version).stop_receiver)
    state = read_replication(conn)
    if state is not None and state.io_running != "No":
        raise ReplicationFailed(f"{conn.peer}: the receiver did not stop")


def stop_channels(conn: Connection, channels: Iterable[Channel]) -> None:
    """Stop those of a person's channels that run, receiver and applier; MySQLError if one takes longer than 10 s."""
    for channel in channels:
        if channel.runs:
            with conn.timeout(STOP_TIME):
                conn.run(Dialect.of(conn.version).stop_channel, (channel.name,))


def drain(conn: Connection, deadline: Deadline) -> bool:
    """Wait until everything that was received is applied, and return whether it is.

    A stopped applier is started; one that stops with an error ends the waiting.
    """
    state = read_replication(conn)
    if state is None:
        return True
    if not state.sql_running:
        _start_applier(conn)
    poll_until(lambda: _idle_or_failed(conn), deadline)
    if Dialect.of(conn.version).retrieved_holds_halves:
        # What it says may be older than what has just been received; it wakes up in no time.
        pause(WAKE_TIME)
        poll_until(lambda: _idle_or_failed(conn), deadline)
    state = read_replication(conn)
    return state is None or state.applied_all


def stop_replication(conn: Connection) -> None:
    """Stop both threads; received transactions that are not applied stay in the relay log.

    Where the source died in the middle of sending a transaction, the applier holds its half, with its row
    locks, and STOP REPLICA would take 61 s: the coordinator is killed, which rolls the half back.
    """
    state = read_replication(conn)
    if state is None:
        return
    stop_io(conn)
    if not state.sql_running:
        return
    if _holds_half(conn):
        _kill_coordinator(conn)
    else:
        try:
            with conn.timeout(STOP_TIME):
                conn.run(Dialect.of(conn.version).stop_applier)
        except MySQLError as error:
            if error.errno != _STOP_TIMEOUT:
                raise
            _kill_coordinator(conn)
    if not poll_until(lambda: _applier_stopped(conn), Deadline(STOP_TIME)):
        raise ReplicationFailed(f"{conn.peer}: the applier did not stop within {STOP_TIME:.0f} s")


def renew_source(conn: Connection, user: str) -> None:
    """Throw away the relay log, and name the account under which the same source is asked from now on.

    With what is applied goes the half of a transaction whose source died: where it is named as received (5.6),
    whoever waits for it would wait for ever. The applier runs then, the receiver is stopped. ReplicationFailed,
    and nothing is changed, if there is anything else left to apply.
    """
    state = read_replication(conn)
    if state is None or not state.applied_all:
        raise ReplicationFailed(f"{conn.peer}: there is something left to apply")
    stop_replication(conn)
    options = {"HOST": state.source_host, "PORT": state.source_port, "USER": user}
    sql, values = Dialect.of(conn.version).change(options)
    with conn.timeout(STOP_TIME):
        conn.run(sql, values)
    _start_applier(conn)


def forget_source(conn: Connection) -> None:
    """Remove the source's configuration and the relay logs; replication is stopped first if it runs."""
    stop_replication(conn)
    with conn.timeout(STOP_TIME):
        conn.run(Dialect.of(conn.version).reset_replica)


def _start_applier(conn: Connection) -> None:
    with conn.timeout(STOP_TIME):
        conn.run(Dialect.of(conn.version).start_applier)


def _applier_stopped(conn: Connection) -> bool:
    state = read_replication(conn)
    return state is None or not state.sql_running


def _holds_half(conn: Connection) -> bool:
    """True if a worker is in a transaction although everything complete is applied: its rest never came.

    A single applier rolls its half back by itself when it is stopped; there are no others before 8.0.
    """
    if not (conn.capabilities.performance_schema and Dialect.of(conn.version).applying_column):
        return False
    state = read_replication(conn)
    return state is not None and state.applied_all and conn.row(_HALF) is not None


def _kill_coordinator(conn: Connection) -> None:
    thread = conn.value(_COORDINATOR if conn.capabilities.performance_schema else _READER)
    if thread is None:
        return
    try:
        conn.run("KILL %s", (int(thread),))
    except MySQLError as error:
        if error.errno != _NO_SUCH_THREAD:
            raise
