"""What differs between MySQL versions: statements, options and columns, in one place.

Today it speaks the words of 8.4 and later (facts/mysql.md, "Statements"); older servers are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from manager.errors import MySQLError

OLDEST = (8, 4)


@dataclass(frozen=True, kw_only=True)
class ReplicaColumns:
    """Names of the columns of the replica's status."""

    source_host: str
    source_port: str
    source_user: str
    source_uuid: str
    source_log_file: str
    io_running: str
    sql_running: str
    sql_state: str
    lag: str


@dataclass(frozen=True, kw_only=True)
class SemisyncNames:
    """Beginnings of the names of semi-sync's variables and status."""

    source: str
    replica: str
    source_status: str


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The words of one family of servers."""

    replica_status: str
    replicas: str
    replicas_uuid: str
    binlog_status: str
    start_replica: str
    start_applier: str
    start_receiver: str
    stop_receiver: str
    stop_applier: str
    reset_replica: str
    change_source: str
    option_prefix: str
    event_disabled_here: str
    columns: ReplicaColumns
    semisync: SemisyncNames

    @classmethod
    def of(cls, version: str) -> Dialect:
        """Return the dialect of a server's version text; MySQLError for a version that is not supported."""
        match = re.match(r"(\d+)\.(\d+)", version)
        if not match or (int(match[1]), int(match[2])) < OLDEST:
            raise MySQLError(f"MySQL {version} is not supported: {OLDEST[0]}.{OLDEST[1]} or later is needed")
        return MODERN

    def change(self, options: Mapping[str, object]) -> tuple[str, list[object]]:
        """Return the statement, and its bound values, that sets the given options of the source.

        The options go by their names without prefix: HOST, PORT, AUTO_POSITION, GET_PUBLIC_KEY ...
        """
        clauses = ", ".join(f"{self._option(name)} = %s" for name in options)
        return f"{self.change_source} {clauses}", list(options.values())

    def _option(self, name: str) -> str:
        if name == "GET_PUBLIC_KEY":
            return f"GET_{self.option_prefix}_PUBLIC_KEY"
        return f"{self.option_prefix}_{name}"


MODERN = Dialect(
    replica_status="SHOW REPLICA STATUS",
    replicas="SHOW REPLICAS",
    replicas_uuid="Replica_UUID",
    binlog_status="SHOW BINARY LOG STATUS",
    start_replica="START REPLICA",
    start_applier="START REPLICA SQL_THREAD",
    start_receiver="START REPLICA IO_THREAD",
    stop_receiver="STOP REPLICA IO_THREAD",
    stop_applier="STOP REPLICA SQL_THREAD",
    reset_replica="RESET REPLICA ALL",
    change_source="CHANGE REPLICATION SOURCE TO",
    option_prefix="SOURCE",
    event_disabled_here="REPLICA_SIDE_DISABLED",
    columns=ReplicaColumns(
        source_host="Source_Host",
        source_port="Source_Port",
        source_user="Source_User",
        source_uuid="Source_UUID",
        source_log_file="Source_Log_File",
        io_running="Replica_IO_Running",
        sql_running="Replica_SQL_Running",
        sql_state="Replica_SQL_Running_State",
        lag="Seconds_Behind_Source",
    ),
    semisync=SemisyncNames(
        source="rpl_semi_sync_source", replica="rpl_semi_sync_replica", source_status="Rpl_semi_sync_source"
    ),
)
