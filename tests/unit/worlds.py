"""Frozen worlds for the tests of decisions: a sound cluster of three, changed in one point by each test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from manager.discovery.cluster import ClusterView, Instance, Service
from manager.discovery.record import Record, SnapshotRecord
from manager.gtid import GtidSet
from manager.mysql.dialect import Capabilities
from manager.mysql.semisync import account
from manager.mysql.state import Channel, LocalRow, ReplicationState, SemisyncState, ServerState
from manager.nodefile import NodeFile
from manager.view import Peer, View

A, B, C = (f"{letter * 8}-0000-0000-0000-000000000000" for letter in "abc")
ADDRESS = {"node-1": "127.0.9.1", "node-2": "127.0.9.2", "node-3": "127.0.9.3"}
SESSIONS = {"node-1": "session-1", "node-2": "session-2", "node-3": "session-3"}

EVERYTHING = Capabilities(
    super_read_only=True,
    offline_mode=True,
    clone=True,
    semisync=True,
    auth_socket=True,
    tls=True,
    performance_schema=True,
)


def gtids(text: str) -> GtidSet:
    """A set in which A, B and C stand for the three servers: `gtids("A:1-5")`."""
    for letter, uuid in (("A", A), ("B", B), ("C", C)):
        text = text.replace(f"{letter}:", f"{uuid}:")
    return GtidSet.parse(text)


def record(**changes: Any) -> Record:
    """node-1 (A) is the primary of epoch 1."""
    sound = Record(
        id="cluster-1",
        version=2,
        state="open",
        durability="async",
        origin="initialised",
        base="",
        epoch=1,
        primary=A,
        primary_name="node-1",
        primaries=(A,),
        members=(),
        reason="founded",
        at=1000,
    )
    return replace(sound, **changes)


def source(**changes: Any) -> ReplicationState:
    """node-2's replication from node-1, running, everything applied."""
    sound = ReplicationState(
        source_host=ADDRESS["node-1"],
        source_port=3306,
        source_user=account(B),
        source_uuid=A,
        auto_position=True,
        io_running="Yes",
        sql_running=True,
        lag=0,
        retrieved=gtids("A:1-10"),
        io_errno=0,
        io_error="",
        sql_errno=0,
        sql_error="",
        applied_all=True,
    )
    return replace(sound, **changes)


def channel(retrieved: str, *, runs: bool = True) -> Channel:
    """A person's channel, which has brought `retrieved`."""
    return Channel(name="moving_in", runs=runs, retrieved=gtids(retrieved))


def row(uuid: str, seen: Record | None, *, opened: int = 0) -> LocalRow:
    """A server's own row after its hooks have read `seen`."""
    if seen is None:
        return LocalRow(server_uuid=uuid, priority=100)
    return LocalRow(
        server_uuid=uuid,
        cluster_id=seen.id,
        epoch=seen.epoch,
        version=seen.version,
        opened_epoch=opened,
        events_epoch=opened,
        priority=100,
        record=seen.to_json(),
    )


def semisync(**changes: Any) -> SemisyncState:
    """Both switches off."""
    sound = SemisyncState(source_on=False, replica_on=False, waiting=False, acknowledged=0)
    return replace(sound, **changes)


def server(uuid: str = A, **changes: Any) -> ServerState:
    """A server that executed A:1-10 and is open for writing."""
    sound = ServerState(
        server_uuid=uuid,
        server_id=ord(uuid[0]),
        version="9.7.4",
        capabilities=EVERYTHING,
        read_only=False,
        super_read_only=False,
        offline_mode=False,
        executed=gtids("A:1-10"),
        purged=gtids(""),
        replication=None,
        row=row(uuid, record(), opened=1 if uuid == A else 0),
        replicas=(),
        semisync=semisync(),
        binlog_file="binlog.000002",
    )
    return replace(sound, **changes)


def closed(uuid: str = B, **changes: Any) -> ServerState:
    """A server as it is right after its start: closed, not replicating."""
    return server(uuid, **{"read_only": True, "super_read_only": True, "offline_mode": True, **changes})


def replica(uuid: str = B, **changes: Any) -> ServerState:
    """A server that replicates from node-1 and is open for reading."""
    return server(uuid, **{"read_only": True, "super_read_only": True, "replication": source(), **changes})


def _instance(service: Service, name: str) -> Instance:
    return Instance(service=service, name=name, address=ADDRESS[name], port=3306, passing=True)


def instances(
    primary: str | None = "node-1", *, replicas: tuple[str, ...] = ("node-2", "node-3")
) -> tuple[Instance, ...]:
    """Every node with its services; `primary` is advertised as healthy."""
    nodes = [_instance("node", name) for name in ADDRESS]
    roles = [_instance("replica", name) for name in replicas]
    if primary is not None:
        roles.append(_instance("primary", primary))
    return (*nodes, *roles)


def cluster(**changes: Any) -> ClusterView:
    """node-1 holds PRIMARY_KEY and is advertised."""
    sound = ClusterView(
        record=record(),
        record_index=7,
        lock_session="session-1",
        lock_value='{"name": "node-1", "address": "127.0.9.1", "port": 3306}',
        failover_session=None,
        failover_value=None,
        backup_session=None,
        sessions=dict(SESSIONS),
        instances=instances(),
        last_snapshot=None,
        snapshot_fault=None,
        last_binlog=None,
    )
    return replace(sound, **changes)


def snapshot(**changes: Any) -> SnapshotRecord:
    """A snapshot of this cluster, taken at second 2000."""
    sound = SnapshotRecord(
        id="mysql-backup-1",
        path="bucket/mysql-backup-1",
        cluster_id="cluster-1",
        gtid=str(gtids("A:1-8")),
        size=1000,
        sha256="0" * 64,
        server_version="9.7.4",
        at=2000,
        binlog="binlog.000002",
    )
    return replace(sound, **changes)


def peer(name: str, state: ServerState | None) -> Peer:
    """A node that answers with `state`, or does not."""
    return Peer(
        name=name,
        address=ADDRESS[name],
        port=3306,
        passing=True,
        state=state,
        error="" if state else "no answer",
    )


def view(name: str = "node-1", **changes: Any) -> View:
    """What node-1's health run sees while all is well; another name changes the place, not the state."""
    sound = View(
        name=name,
        address=ADDRESS[name],
        port=3306,
        replication_configured=True,
        max_lag=None,
        file=NodeFile(origin="initialised", cluster_id="cluster-1", ready=True),
        server=server(),
        cluster=cluster(),
        session=SESSIONS[name],
    )
    return replace(sound, **changes)
