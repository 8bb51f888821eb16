"""What is known of a snapshot's soundness: in its manifest, and in Consul, which names the one to start with."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from manager.discovery.record import SnapshotRecord
from manager.errors import ConsulError, ObjectMissing, SnapshotDamaged, StoreError
from manager.node import Node
from manager.snapshot.catalogue import find, manifests
from manager.snapshot.manifest import GOOD, Manifest

LOG = logging.getLogger(__name__)


def entry(manifest: Manifest) -> SnapshotRecord:
    """Return what Consul has of a snapshot."""
    return SnapshotRecord(
        id=manifest.id,
        path=manifest.path,
        cluster_id=manifest.cluster_id,
        gtid=manifest.gtid,
        size=manifest.size,
        sha256=manifest.sha256,
        server_version=manifest.server_version,
        at=manifest.at,
        binlog=manifest.binlog or "",
    )


def give(node: Node, snapshot_id: str, verdict: str) -> None:
    """Write a verdict into the manifest; a bad one also takes the snapshot's place in Consul from it.

    The caller has told the others that the snapshot is being read. StoreError, ConsulError: written in part at most.
    """
    try:
        manifest = find(node.store, snapshot_id)
    except (ObjectMissing, SnapshotDamaged) as error:
        LOG.warning("%s", error)  # such a one is used by nobody
    else:
        judged = replace(manifest, verdict=verdict, verified_at=int(time.time()))
        node.store.put_bytes(judged.name, judged.to_json())
    if verdict != GOOD:
        dethrone(node, snapshot_id)


def dethrone(node: Node, snapshot_id: str) -> None:
    """If Consul names this snapshot, let it name the newest older one of its cluster that is not known to be bad.

    Or none; a new one is due at once in any case. A fault is only logged.
    """
    try:
        last = node.discovery.view().last_snapshot
        if last is None or last.id != snapshot_id:
            return
        older = [
            each
            for each in _known(node)
            if each.cluster_id == last.cluster_id and not each.bad and (each.at, each.id) < (last.at, last.id)
        ]
        node.discovery.replace_snapshot(snapshot_id, entry(older[0]) if older else None)
    except ConsulError as error:
        LOG.warning("Consul goes on naming %s: %s", snapshot_id, error)
        return
    LOG.warning(
        "new nodes start with %s instead of %s", older[0].id if older else "the next one", snapshot_id
    )


def _known(node: Node) -> list[Manifest]:
    try:
        return manifests(node.store, node.settings)
    except StoreError as error:  # also a driver that cannot list
        LOG.warning("no other snapshot is looked for: %s", error)
        return []
