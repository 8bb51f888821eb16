"""Making sure that the server on a restored data directory has executed what its snapshot holds, and nothing else."""

from __future__ import annotations

from pathlib import Path

from manager.errors import MySQLError, SnapshotError
from manager.gtid import GtidSet
from manager.mysql import private
from manager.mysql.connection import Connection, local
from manager.mysql.dialect import Dialect
from manager.mysql.state import read_executed
from manager.settings import Settings

TIME = 60.0  # seconds for each statement: a reset removes binlogs


def hold(settings: Settings, datadir: Path, gtid: GtidSet) -> GtidSet:
    """Let a server that starts on `datadir` have exactly `gtid` in gtid_executed; return what it had before.

    A private server, its binlog on as configured, is asked, told where it says something else, asked again, and
    stopped cleanly. The copy of a replica does not begin to replicate (skip_replica_start in my.cnf). Killed anywhere
    and begun again it comes to the same end. SnapshotError if one of these fails.
    """
    with private.place(settings, datadir) as own:
        with private.server(own) as server:
            if not server.answers():
                raise SnapshotError(f"mysqld does not start on it: {server.said}")
            try:
                with local(own, timeout=TIME) as conn:
                    before = read_executed(conn)
                    if before != gtid:
                        _set(conn, gtid)
            except MySQLError as error:
                raise SnapshotError(f"its GTID set could not be set: {error}") from None
        if server.process.returncode != 0:
            raise SnapshotError(f"mysqld did not stop cleanly on it: {server.process.returncode}")
    return before


def _set(conn: Connection, gtid: GtidSet) -> None:
    conn.run(Dialect.of(conn.version).reset_binlogs)
    conn.run("SET GLOBAL gtid_purged = %s", (str(gtid),))
    if (now := read_executed(conn)) != gtid:
        raise SnapshotError(f"the server says that it has executed {now}, not {gtid}")
