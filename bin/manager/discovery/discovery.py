"""What the hooks ask of Consul and tell it: the view, the session, the record's transactions, the locks.

Every call is bounded by the timeout given at construction. ConsulUnavailable means that nothing is known:
not that something is absent, and, after a change, not that it was refused.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from manager.discovery.client import Client, Operation
from manager.discovery.cluster import (
    SERVICES,
    ClusterView,
    Instance,
    Service,
    instances,
    make_view,
    service_name,
)
from manager.discovery.lock import Lock
from manager.discovery.record import Record, SnapshotRecord
from manager.discovery.session import NodeSession
from manager.errors import ConsulError, LockLost, TransactionRefused
from manager.settings import Settings


class Discovery:
    """Consul as this node's hooks see it; no network at construction, for one thread at a time."""

    def __init__(self, settings: Settings, *, timeout: float = 2.0) -> None:
        self._settings = settings
        self._timeout = timeout
        self._client = Client(settings, timeout=timeout)
        self._session = NodeSession(settings, self._client, wait=timeout)

    # --- Reading --------------------------------------------------------------------------------

    def view(self) -> ClusterView:
        """Return what Consul knows; RecordError if the cluster's record is damaged or newer than this code.

        ConsulDenied where an ACL hides a key or a service, which would look like "nothing there" otherwise.
        """
        settings = self._settings
        decisive = (settings.record_key, settings.primary_key, settings.last_backup_key)
        keys = self._client.read(
            [
                *decisive,
                settings.failover_lock_key,
                settings.backup_lock_key,
                settings.last_binlog_key,
                settings.paused_key,
            ]
        )
        for name in decisive:
            if name not in keys:
                self._client.check_readable(name)
        sessions = self._client.sessions()
        found = [one for service in SERVICES for one in self._instances(service)]
        return make_view(settings, keys, sessions, found)

    def lock_sessions(self) -> tuple[str | None, str | None]:
        """Return who holds PRIMARY_KEY and the failover lock, in one small call: for whoever waits for a change."""
        names = (self._settings.primary_key, self._settings.failover_lock_key)
        keys = self._client.read(names)
        primary, failover = (keys[name].session if name in keys else None for name in names)
        return primary, failover

    def _instances(self, service: Service) -> tuple[Instance, ...]:
        name = service_name(self._settings, service)
        return instances(service, name, self._client.service(name))

    # --- This node's session --------------------------------------------------------------------

    def ensure_session(self) -> str:
        """Return the id of this node's session, checked and renewed, or made anew (NodeSession.ensure)."""
        return self._session.ensure()

    def renew_session(self) -> None:
        """Renew this node's session, waiting for nobody; SessionInvalid if there is none or it is dead."""
        self._session.renew()

    def destroy_session(self) -> None:
        """Destroy every session of this node, which frees PRIMARY_KEY at once; none is fine."""
        self._session.destroy()

    # --- The record: each writes `record` as it is given, and returns its new index --------------
    #
    # TransactionRefused: nothing was changed. ConsulUnavailable: it may have been, or may yet be.

    def found(self, record: Record, session: str) -> int:
        """Lock PRIMARY_KEY with `session` and write the first record, if there is none."""
        return self._write(self._lock(record, session), record, 0)

    def retake(self, record: Record, index: int, session: str) -> int:
        """Lock PRIMARY_KEY again with a primary's new `session`; `record` is the touched one.

        With index 0, where there is no record: a primary writes its own copy back (SPEC 7).
        """
        return self._write(self._lock(record, session), record, index)

    def update(self, record: Record, index: int, session: str) -> int:
        """Replace the record as the holder of PRIMARY_KEY, which `session` must be."""
        return self._write([Operation.check_session(self._settings.primary_key, session)], record, index)

    def promote(self, record: Record, index: int, session: str, *, unlock_session: str | None = None) -> int:
        """Give PRIMARY_KEY to `session`, that of the node which `record` names, and replace the record.

        `unlock_session` is the old primary's, if that node was fenced or hands over.
        """
        operations = self._lock(record, session)
        if unlock_session is not None:
            operations.insert(0, Operation.unlock(self._settings.primary_key, "", unlock_session))
        return self._write(operations, record, index)

    def touch(self, record: Record, index: int) -> int:
        """Replace the record by the touched one; anybody may. Afterwards nothing older can land any more."""
        return self._write([], record, index)

    def _lock(self, record: Record, session: str) -> list[dict[str, Any]]:
        return [Operation.lock(self._settings.primary_key, self._lock_value(record.primary_name), session)]

    def _lock_value(self, name: str) -> str:
        """Return PRIMARY_KEY's value for a node: its name, and where clients of the key find it."""
        address, port = self._settings.node_address, self._settings.mysql_port
        if name != self._settings.node_name:
            node = next((one for one in self._instances("node") if one.name == name), None)
            if node is None:
                raise TransactionRefused(
                    f"{name} is not registered in Consul, so it cannot be given the lock"
                )
            address, port = node.address, node.port
        return json.dumps({"name": name, "address": address, "port": port})

    def _write(self, operations: list[dict[str, Any]], record: Record, index: int) -> int:
        key = self._settings.record_key
        return self._client.transaction([*operations, Operation.cas(key, record.to_json(), index)])[key]

    def pause(self, text: str) -> None:
        """Pause automatic action, until `resume`; `text` says who did, and why."""
        self._client.transaction([Operation.set(self._settings.paused_key, text)])

    def resume(self) -> None:
        """Let automatic action go on; fine if it was not paused."""
        self._client.transaction([Operation.delete(self._settings.paused_key)])

    def rejoin(self) -> None:
        """Let this node's agent join the Consul server again, if it has lost it.

        An agent looks for a lost server every 30 s or so, in turns: one that came back with nothing was found
        after 13 to 82 s (measured).
        """
        if not self._client.has_leader():
            self._client.join(self._settings.consul)

    # --- Locks ----------------------------------------------------------------------------------

    def failover_lock(self, reason: str) -> Lock:
        """Return a context manager that holds the failover lock; entering raises LockHeld."""
        # A runner that dies with its node must not keep the others waiting for its session's 20 s.
        return self._lock_on(self._settings.failover_lock_key, "failover", reason, checks=("serfHealth",))

    def backup_lock(self, reason: str = "snapshot") -> Lock:
        """Return a context manager that holds the snapshot lock; entering raises LockHeld."""
        return self._lock_on(self._settings.backup_lock_key, "snapshot", reason)

    def replace_snapshot(self, snapshot_id: str, other: SnapshotRecord | None) -> None:
        """Name another snapshot, or none, as the last one, if it is still `snapshot_id`."""
        name = self._settings.last_backup_key
        key = self._client.read([name]).get(name)
        if key is None or SnapshotRecord.from_json(key.text).id != snapshot_id:
            return
        gone = Operation.delete_unchanged(name, key.index)
        change = Operation.cas(name, other.to_json(), key.index) if other else gone
        # Without the binlog's name a new snapshot is due at once.
        self._client.transaction([change, Operation.delete(self._settings.last_binlog_key)])

    def note_verification(self, at: float) -> None:
        """Note that a snapshot was verified at `at`, in seconds since 1970."""
        self._client.transaction([Operation.set(self._settings.last_verify_key, f"{at:.0f}")])

    def last_verification(self) -> float:
        """When a snapshot was verified last, in seconds since 1970; 0 if never."""
        key = self._client.read([self._settings.last_verify_key]).get(self._settings.last_verify_key)
        with contextlib.suppress(ValueError):
            return float(key.text) if key else 0.0
        return 0.0

    @contextlib.contextmanager
    def restoring(self, snapshot_id: str) -> Iterator[None]:
        """Say, for the time of the block, that a snapshot is being restored, so that nobody removes it."""
        key = f"{self._settings.restoring_prefix}{self._settings.node_name}.{os.getpid()}"
        with self._lock_on(key, "restore", snapshot_id):
            yield
        with contextlib.suppress(ConsulError):  # `being_restored` takes away what stays
            self._client.transaction([Operation.delete(key)])

    def being_restored(self) -> frozenset[str]:
        """Return the ids of the snapshots that somebody restores now; keys of those who died are removed."""
        found = set()
        for name, key in self._client.read_below(self._settings.restoring_prefix).items():
            if key.session is None:
                self._client.transaction([Operation.delete_unchanged(name, key.index)])
                continue
            with contextlib.suppress(ValueError, LookupError, TypeError):
                found.add(str(json.loads(key.text)["reason"]))
        return frozenset(found)

    def _lock_on(self, key: str, what: str, reason: str, checks: Sequence[str] = ()) -> Lock:
        return Lock(self._settings, key, what=what, reason=reason, timeout=self._timeout, checks=checks)

    def record_snapshot(self, record: SnapshotRecord, lock: Lock) -> None:
        """Record a complete snapshot and its binlog, both or neither; LockLost without the snapshot lock."""
        try:
            self._client.transaction(
                [
                    Operation.check_session(lock.key, lock.session),
                    Operation.set(self._settings.last_backup_key, record.to_json()),
                    Operation.set(self._settings.last_binlog_key, record.binlog),
                ]
            )
        except TransactionRefused:
            raise LockLost(f"the snapshot lock is lost; {record.id} is not recorded") from None
