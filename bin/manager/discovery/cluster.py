"""What Consul knows of a cluster at one moment, as frozen values for the deciding functions."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from manager.discovery.client import Key
from manager.discovery.record import Record, SnapshotRecord
from manager.errors import RecordError
from manager.settings import Settings

Service = Literal["primary", "replica", "node"]
SERVICES: tuple[Service, ...] = get_args(Service)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One registration of a node, whatever its checks say.

    `passing` is Consul's own view: every check passes, and the agent's own (serfHealth) is among them. A node
    that has left may be registered again by its last check, and has no agent then that would ever fail it.
    `note` is what the node's own health said last; `entry` are Consul's names of node and service.
    """

    service: Service
    name: str
    address: str
    port: int
    passing: bool
    note: str = ""
    entry: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Holder:
    """The node that PRIMARY_KEY's value names."""

    name: str
    address: str
    port: int


@dataclass(frozen=True, kw_only=True)
class ClusterView:
    """The KV from one consistent read, then the sessions, then the services.

    `record_index` is 0 without a record; `lock_session` and `lock_value` are PRIMARY_KEY's,
    `failover_session` and `failover_value` (JSON: name, reason, step, at) those of the failover lock.
    `sessions` are the nodes' living sessions, by node name. `snapshot_fault` says what is wrong with an entry
    under LAST_BACKUP_KEY that is there and unreadable; `last_snapshot` is None then. `paused` says who paused
    automatic action, and why; None while it is not.
    """

    record: Record | None
    record_index: int
    lock_session: str | None
    lock_value: str | None
    failover_session: str | None
    failover_value: str | None
    backup_session: str | None
    sessions: Mapping[str, str]
    instances: tuple[Instance, ...]
    last_snapshot: SnapshotRecord | None
    snapshot_fault: str | None
    last_binlog: str | None
    paused: str | None = None

    def of(self, service: Service) -> tuple[Instance, ...]:
        """The instances of one service, by name."""
        return tuple(one for one in self.instances if one.service == service)

    @property
    def healthy_replicas(self) -> tuple[str, ...]:
        """The names of the replicas that pass, sorted: the first one does what only one is to do."""
        return tuple(sorted(one.name for one in self.of("replica") if one.passing))

    @property
    def lock_holder(self) -> Holder | None:
        """Who holds PRIMARY_KEY now, as its value says; None if it is free or its value says nothing."""
        if self.lock_session is None or not self.lock_value:
            return None
        try:
            value = json.loads(self.lock_value)
            return Holder(str(value["name"]), str(value["address"]), int(value["port"]))
        except (ValueError, LookupError, TypeError):
            return None

    @property
    def failover_step_at(self) -> float | None:
        """When the runner that holds the failover lock wrote its last step, in seconds since 1970."""
        if self.failover_session is None or not self.failover_value:
            return None
        try:
            return float(json.loads(self.failover_value)["at"])
        except (ValueError, LookupError, TypeError):
            return None


def session_name(settings: Settings, node_name: str) -> str:
    """The name of a node's session; it has the service's in it, since clusters may share node names."""
    return f"{settings.session_name}/{settings.service_name}/{node_name}"


def service_name(settings: Settings, service: Service) -> str:
    """Return the name under which Consul has this service of the cluster."""
    names = {
        "primary": settings.primary_service,
        "replica": settings.replica_service,
        "node": settings.node_service,
    }
    return names[service]


def service_id(settings: Settings, service: Service) -> str:
    """Return the id of this node's registration in a service: ContainerPilot makes the same."""
    return f"{service_name(settings, service)}-{settings.node_name}"


def node_sessions(settings: Settings, sessions: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the id of each node's session by node name; of two under one name the younger counts.

    `sessions` comes in the order of creation. Sessions of other clusters, and those of locks, are left out.
    """
    start = session_name(settings, "")
    found = {}
    for session in sessions:
        name = str(session.get("Name", ""))
        if name.startswith(start) and "/" not in name.removeprefix(start):
            found[name.removeprefix(start)] = str(session["ID"])
    return found


def instances(service: Service, name: str, entries: Iterable[Mapping[str, Any]]) -> tuple[Instance, ...]:
    """Return the instances in an answer of Consul's health endpoint for the service called `name`."""
    found = [
        Instance(
            service=service,
            name=_node_name(name, entry),
            address=str(entry["Service"]["Address"] or entry["Node"]["Address"]),
            port=int(entry["Service"]["Port"]),
            passing=_passes(entry["Checks"]),
            note=next((str(check["Output"]) for check in entry["Checks"] if check.get("ServiceID")), ""),
            entry=(str(entry["Node"]["Node"]), str(entry["Service"]["ID"])),
        )
        for entry in entries
    ]
    return tuple(sorted(found, key=lambda one: (one.name, one.address)))


def _passes(checks: Sequence[Mapping[str, Any]]) -> bool:
    return all(check["Status"] == "passing" for check in checks) and any(
        check["CheckID"] == "serfHealth" for check in checks
    )


def make_view(
    settings: Settings,
    keys: Mapping[str, Key],
    sessions: Iterable[Mapping[str, Any]],
    found: Iterable[Instance],
) -> ClusterView:
    """Put the answers together; RecordError if the cluster's record cannot be read."""
    sessions = list(sessions)
    record, lock = keys.get(settings.record_key), keys.get(settings.primary_key)
    failover, backup = keys.get(settings.failover_lock_key), keys.get(settings.backup_lock_key)
    snapshot, fault = _snapshot(keys.get(settings.last_backup_key))
    binlog, paused = keys.get(settings.last_binlog_key), keys.get(settings.paused_key)
    return ClusterView(
        record=Record.from_json(record.text) if record else None,
        record_index=record.index if record else 0,
        lock_session=lock.session if lock else None,
        lock_value=lock.text if lock else None,
        failover_session=failover.session if failover else None,
        failover_value=failover.text if failover else None,
        backup_session=backup.session if backup else None,
        sessions=node_sessions(settings, sessions),
        instances=tuple(found),
        last_snapshot=snapshot,
        snapshot_fault=fault,
        last_binlog=binlog.text if binlog else None,
        paused=paused.text if paused else None,
    )


def _snapshot(key: Key | None) -> tuple[SnapshotRecord | None, str | None]:
    """A damaged entry must not stop anything (G4): the next snapshot replaces it."""
    if key is None:
        return None, None
    try:
        return SnapshotRecord.from_json(key.text), None
    except RecordError as error:
        _log.warning("%s", error)
        return None, str(error)


def _node_name(service: str, entry: Mapping[str, Any]) -> str:
    """The part of the service id after the service's name; other pilots may name it otherwise."""
    identity = str(entry["Service"]["ID"])
    if identity.startswith(f"{service}-"):
        return identity.removeprefix(f"{service}-")
    return str(entry["Node"]["Node"])
