"""What is known of a snapshot's soundness: in its manifest, and in Consul, which names the one to start with."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from manager.discovery.record import SnapshotRecord
from manager.errors import CannotList, ConsulError, SnapshotDamaged, StoreError
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

    There the newest other of its cluster that is not known to be bad is named, or none: then a new one is due at once.
    StoreError, ConsulError: written in part at most, and to be given again.
    """
    try:
        manifest = find(node.store, snapshot_id)
    except SnapshotDamaged as error:
        LOG.warning("%s", error)  # such a manifest is used by nobody
    else:
        judged = replace(manifest, verdict=verdict, verified_at=int(time.time()))
        node.store.put_bytes(judged.name, judged.to_json())
    if verdict != GOOD:
        _dethrone(node, snapshot_id)


def _dethrone(node: Node, snapshot_id: str) -> None:
    last = node.discovery.view().last_snapshot
    if last is None or last.id != snapshot_id:
        return
    try:
        others = manifests(node.store, node.settings)
    except CannotList:
        others = []
    fit = [m for m in others if m.cluster_id == last.cluster_id and not m.bad and m.id != snapshot_id]
    node.discovery.replace_snapshot(snapshot_id, entry(fit[0]) if fit else None)
    LOG.warning(
        "new nodes start with %s instead of %s", fit[0].id if fit else "the next snapshot", snapshot_id
    )


def condemn(node: Node, snapshot_id: str, why: str) -> None:
    """Give a bad verdict as far as that is possible now; a fault of it is only logged."""
    try:
        give(node, snapshot_id, why)
    except (StoreError, ConsulError) as error:
        LOG.warning("that %s is bad cannot be written down: %s", snapshot_id, error)
