"""Opening a primary: the one order of steps, whether its own health or the runner of a failover does it."""

from __future__ import annotations

from manager.discovery.record import Record
from manager.mysql import operations, semisync
from manager.mysql.connection import Connection
from manager.mysql.state import ServerState
from manager.waiting import Deadline

CUT_TIME = 3.0


def open_primary(conn: Connection, record: Record, server: ServerState, *, lease: float) -> None:
    """Open the server for writing; the caller holds its guard on `conn` and has read the record again.

    A server that was a replica is opened after a promotion: in semisync nobody may acknowledge until he is
    admitted, and commits wait until then. One that has members waits for them; one that has none, and was no
    replica, founds the cluster or was alone before.
    """
    promoted = server.replication is not None or _first_time(record, server)
    if promoted:
        operations.stop_replication(conn)
        operations.forget_source(conn)
    if server.semisync is not None:
        operations.let_hooks_write(conn)
        waits = record.durability == "semisync" and (promoted or bool(record.members))
        if promoted:
            semisync.cut_off(conn, semisync.accounts(conn), Deadline(CUT_TIME))
        semisync.set_replica(conn, on=False)
        semisync.set_source(conn, on=waits or server.semisync.source_on)
    operations.open_for_writing(
        conn,
        cluster_id=record.id,
        epoch=record.epoch,
        version=record.version,
        record=record.to_json(),
        lease_s=lease,
    )


def _first_time(record: Record, server: ServerState) -> bool:
    """True if it was promoted and never opened at that epoch: an opening was cut off after it forgot its source."""
    opened = server.row.opened_epoch if server.row is not None else 0
    return len(record.primaries) > 1 and opened < record.epoch
