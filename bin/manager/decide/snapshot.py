"""Is a snapshot due, and is it this node's turn? A pure function (SPEC 3, snapshot_task)."""

from __future__ import annotations

from dataclasses import dataclass

from manager.discovery.cluster import ClusterView
from manager.gtid import GtidSet
from manager.mysql.state import ServerState


@dataclass(frozen=True)
class Due:
    """Whether to take a snapshot now, and why (not)."""

    take: bool
    reason: str


def due(
    cluster: ClusterView,
    server: ServerState,
    *,
    name: str,
    session: str | None,
    snapshot_node: str,
    ttl: int,
    now: float,
    asked: bool = False,
) -> Due:
    """Return whether this node takes a snapshot now. `ttl` in seconds, `now` in seconds of the epoch.

    `asked`: a person wants one, from this very node.
    """
    record = cluster.record
    if record is None or record.state != "open":
        return Due(False, "there is no open cluster")
    primary = record.primary == server.server_uuid and session is not None and cluster.lock_session == session
    if primary and not server.serves:
        return Due(False, "this node is the primary, but not open")
    healthy = cluster.healthy_replicas
    if asked:
        fit = primary or name in healthy
        return Due(
            fit, "it was asked for" if fit else "this node is neither the primary nor a healthy replica"
        )
    turn = healthy[0] if snapshot_node == "replica" and healthy else None
    if turn is None and not primary:
        return Due(False, "this node is not the primary")
    if turn is not None and turn != name:
        return Due(False, f"{turn} takes the snapshots")
    last = cluster.last_snapshot
    if last is None or last.cluster_id != record.id:
        return Due(True, "there is no snapshot yet")
    if now - last.at > ttl:
        return Due(True, f"the last snapshot is {now - last.at:.0f} s old, BACKUP_TTL is {ttl}")
    if primary and not server.purged <= GtidSet.parse(last.gtid):
        return Due(True, "the primary has purged transactions that the last snapshot lacks: it is not usable")
    if primary and cluster.last_binlog != server.binlog_file:
        return Due(
            True, f"the binlog has been rotated since ({cluster.last_binlog}, now {server.binlog_file})"
        )
    return Due(False, f"the last snapshot is {now - last.at:.0f} s old")
