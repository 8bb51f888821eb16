"""What a server says of itself, read into frozen values: the gathering half of every hook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manager.errors import MySQLError
from manager.gtid import GtidSet
from manager.mysql.connection import Connection
from manager.mysql.dialect import Capabilities, Dialect

_NO_SUCH_TABLE = frozenset({1049, 1146})
# Said by a single-threaded applier, and by the coordinator of a multi-threaded one.
_IDLE = "has read all relay log"


@dataclass(frozen=True, kw_only=True)
class ReplicationState:
    """The replica's status.

    `lag` is in seconds, None while unknown. `applied_all` is true once every transaction that was received
    completely is applied: the applier runs, has read the whole relay log, and all that was received is
    executed. The half of a transaction whose source died does not count (it is never in `retrieved`).
    `source_log_file` is empty until the present source has begun to send: it says "Yes" before it refuses.
    """

    source_host: str
    source_port: int
    source_user: str
    source_uuid: str
    auto_position: bool
    io_running: str
    sql_running: bool
    lag: int | None
    retrieved: GtidSet
    io_errno: int
    io_error: str
    sql_errno: int
    sql_error: str
    applied_all: bool
    source_log_file: str = ""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A channel that is none of ours, by which a person lets a server replicate (docs/moving-in.md).

    `runs`: its receiver or its applier does, so that more may come. `retrieved`: what its relay log holds, or held
    since it was made.
    """

    name: str
    runs: bool
    retrieved: GtidSet


@dataclass(frozen=True, kw_only=True)
class LocalRow:
    """The row of `autopilot.node`: what this server's hooks have seen (SPEC 7, "Seen").

    `record` is the cluster record's JSON as it was read last; `opened_epoch` the epoch at which the server
    was last opened for writing, and `events_epoch` the one at which its users' events were enabled; 0: never.
    `priority` is the node's own FAILOVER_PRIORITY, here for the runners of other nodes to read.
    """

    server_uuid: str
    cluster_id: str = ""
    epoch: int = 0
    version: int = 0
    opened_epoch: int = 0
    events_epoch: int = 0
    priority: int = 100
    record: str = ""


@dataclass(frozen=True, kw_only=True)
class SemisyncState:
    """Semi-sync on one server: whether it waits for acknowledgements, and whether its receiver would give them
    from its next start on (a receiver that runs keeps to what was set when it started, measured).

    `waiting` is true while commits wait; `acknowledged` counts those that were, so that two looks tell whether
    any progress is made. The server's count of semi-sync clients proves nothing (measured), so it is not here.
    """

    source_on: bool
    replica_on: bool
    waiting: bool
    acknowledged: int


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """One server at one moment. `row` is None if there is none, or if a clone brought another server's.

    `replication` is that of our own channel, the one without a name; `channels` are all others. On a server without
    super_read_only that is what read_only is; one without offline_mode never is offline.
    """

    server_uuid: str
    server_id: int
    version: str
    capabilities: Capabilities
    read_only: bool
    super_read_only: bool
    offline_mode: bool
    executed: GtidSet
    purged: GtidSet
    replication: ReplicationState | None
    channels: tuple[Channel, ...] = ()
    row: LocalRow | None
    replicas: tuple[str, ...]
    semisync: SemisyncState | None
    binlog_file: str | None

    @property
    def serves(self) -> bool:
        """Clients can write here (SPEC 7, "Serves")."""
        return not self.read_only and not self.offline_mode

    @property
    def further_sources(self) -> str:
        """The names of the channels that run and are none of ours, for people; empty if there are none."""
        return ", ".join(channel.name for channel in self.channels if channel.runs)

    @property
    def closed(self) -> bool:
        """No plain account can be logged in, and not even a privileged one can write; as far as the server has both."""
        return self.super_read_only and (self.offline_mode or not self.capabilities.offline_mode)


def read_state(conn: Connection) -> ServerState:
    """Read everything; MySQLError if one of the answers does not come in time.

    The replication status is read before the executed set: a transaction received in between can then not
    look like an applied one. The binlog's status is read because it hangs on a full or frozen disk where
    everything else still answers (facts/fencing.md D).
    """
    dialect = Dialect.of(conn.version)
    has = conn.capabilities
    rows = conn.rows(dialect.replica_status)
    status = _own_channel(dialect, rows)
    facts = conn.row(
        "SELECT @@server_uuid AS server_uuid, @@server_id AS server_id, @@version AS version,"
        " @@global.read_only AS read_only,"
        f" @@global.{'super_read_only' if has.super_read_only else 'read_only'} AS super_read_only,"
        f" {'@@global.offline_mode' if has.offline_mode else '0'} AS offline_mode,"
        " @@global.gtid_executed AS executed, @@global.gtid_purged AS purged"
    )
    if facts is None:
        raise MySQLError(f"{conn.peer}: no answer to a query of its settings")
    executed = GtidSet.parse(facts["executed"])
    replicas = tuple(sorted(str(row[dialect.replicas_uuid]) for row in conn.rows(dialect.replicas)))
    row = read_row(conn, server_uuid=facts["server_uuid"])
    binlog = conn.row(dialect.binlog_status)
    return ServerState(
        server_uuid=facts["server_uuid"],
        server_id=facts["server_id"],
        version=facts["version"],
        capabilities=has,
        read_only=bool(facts["read_only"]),
        super_read_only=bool(facts["super_read_only"]),
        offline_mode=bool(facts["offline_mode"]),
        executed=executed,
        purged=GtidSet.parse(facts["purged"]),
        replication=_replication(dialect, status, executed) if status else None,
        channels=tuple(_channel(dialect, each) for each in rows if each.get("Channel_Name")),
        row=row,
        replicas=replicas,
        semisync=read_semisync(conn),
        binlog_file=binlog["File"] if binlog else None,
    )


def serves(conn: Connection) -> bool:
    """True if clients can write here; quicker than all of the state."""
    offline = "@@global.offline_mode" if conn.capabilities.offline_mode else "0"
    return bool(conn.value(f"SELECT {offline} OR @@global.read_only") == 0)


def read_executed(conn: Connection) -> GtidSet:
    """Return the transactions that the server has executed."""
    return GtidSet.parse(conn.value("SELECT @@global.gtid_executed"))


def read_replication(conn: Connection) -> ReplicationState | None:
    """Return the replica's status alone, or None if the server follows nobody."""
    dialect = Dialect.of(conn.version)
    status = _own_channel(dialect, conn.rows(dialect.replica_status))
    if status is None:
        return None
    return _replication(dialect, status, read_executed(conn))


def read_semisync(conn: Connection) -> SemisyncState | None:
    """Return the server's semi-sync state, or None where it lacks one of the two plugins."""
    if not conn.capabilities.semisync:
        return None
    prefix = Dialect.of(conn.version).semisync
    names = {
        "source_on": f"{prefix.source}_enabled",
        "replica_on": f"{prefix.replica}_enabled",
        "waiting": f"{prefix.source_status}_wait_sessions",
        "acknowledged": f"{prefix.source_status}_yes_tx",
    }
    marks = ", ".join(["%s"] * len(names))
    rows = conn.rows(
        "SELECT LOWER(VARIABLE_NAME) AS name, VARIABLE_VALUE AS value FROM performance_schema.global_variables"
        f" WHERE VARIABLE_NAME IN ({marks}) UNION ALL"
        " SELECT LOWER(VARIABLE_NAME), VARIABLE_VALUE FROM performance_schema.global_status"
        f" WHERE VARIABLE_NAME IN ({marks})",
        (*names.values(), *names.values()),
    )
    found = {row["name"]: row["value"] for row in rows}
    try:
        return SemisyncState(
            source_on=found[names["source_on"].lower()] == "ON",
            replica_on=found[names["replica_on"].lower()] == "ON",
            waiting=int(found[names["waiting"].lower()]) > 0,
            acknowledged=int(found[names["acknowledged"].lower()]),
        )
    except KeyError:
        return None


def read_row(conn: Connection, *, server_uuid: str) -> LocalRow | None:
    """Return the server's own row, or None: no schema, no row, or only that of one it was cloned from."""
    try:
        row = conn.row(
            "SELECT server_uuid, cluster_id, epoch, version, opened_epoch, events_epoch, priority, record"
            " FROM autopilot.node WHERE server_uuid = %s",
            (server_uuid,),
        )
    except MySQLError as error:
        if error.errno in _NO_SUCH_TABLE:
            return None
        raise
    return LocalRow(**row) if row else None


def _own_channel(dialect: Dialect, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The default channel's status."""
    for row in rows:
        if not row.get("Channel_Name") and row[dialect.columns.source_host]:
            return row
    return None


def _channel(dialect: Dialect, status: dict[str, Any]) -> Channel:
    names = dialect.columns
    return Channel(
        name=str(status["Channel_Name"]),
        runs=status[names.io_running] != "No" or status[names.sql_running] != "No",
        retrieved=GtidSet.parse(status["Retrieved_Gtid_Set"] or ""),
    )


def _replication(dialect: Dialect, status: dict[str, Any], executed: GtidSet) -> ReplicationState:
    names = dialect.columns
    retrieved = GtidSet.parse(status["Retrieved_Gtid_Set"] or "")
    lag = status[names.lag]
    sql_running = status[names.sql_running] == "Yes"
    idle = _IDLE in (status[names.sql_state] or "")
    left = (retrieved - executed).count
    # The one transaction that 5.6 names before it is complete; its only applier says itself when it has read all.
    complete = left == 0 or (dialect.retrieved_holds_halves and left == 1)
    return ReplicationState(
        source_host=status[names.source_host],
        source_port=int(status[names.source_port]),
        source_user=status[names.source_user] or "",
        source_uuid=status[names.source_uuid] or "",
        auto_position=bool(int(status["Auto_Position"])),
        io_running=status[names.io_running],
        sql_running=sql_running,
        lag=None if lag is None else int(lag),
        retrieved=retrieved,
        io_errno=int(status["Last_IO_Errno"]),
        io_error=status["Last_IO_Error"],
        sql_errno=int(status["Last_SQL_Errno"]),
        sql_error=status["Last_SQL_Error"],
        applied_all=sql_running and idle and complete,
        source_log_file=status[names.source_log_file] or "",
    )
