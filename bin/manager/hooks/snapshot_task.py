"""`snapshot_task`: take a snapshot if one is due and it is this node's turn (SPEC 3); `snapshot`: take one now."""

from __future__ import annotations

import logging
import time

from manager.decide.snapshot import Due, due
from manager.discovery.cluster import ClusterView
from manager.errors import AutopilotError, Busy, CannotList, ConsulError, LockHeld, SnapshotError, StoreError
from manager.gtid import GtidSet
from manager.hooks import verification
from manager.hooks.verdict import start_long
from manager.mysql.state import ServerState, read_state
from manager.node import Node
from manager.snapshot import retention
from manager.snapshot.catalogue import manifests
from manager.snapshot.manifest import Manifest
from manager.snapshot.naming import snapshot_name
from manager.snapshot.take import take
from manager.snapshot.verdict import entry

LOG = logging.getLogger(__name__)


def run(node: Node) -> int:
    """Return 0 when nothing is due or the snapshot is complete and recorded; an AutopilotError otherwise."""
    cluster, _, verdict = _look(node)
    if not verdict.take:
        LOG.debug("no snapshot: %s", verdict.reason)
        if verification.due(node, cluster, time.time()):
            start_long(node, "verify")
        return 0
    try:
        why = _take(node, asked=False)
    except (Busy, LockHeld) as other:
        why = str(other)
    if why:
        LOG.info("no snapshot: %s", why)
    return 0


def now(node: Node) -> int:
    """Take one, due or not; return 0 when it is recorded. AutopilotError, also if somebody else is taking one."""
    why = _take(node, asked=True)
    if why:
        raise AutopilotError(f"no snapshot: {why}")
    return 0


def _take(node: Node, *, asked: bool) -> str:
    """Take, record and tidy up under the locks; returns why there is nothing to take, or nothing."""
    with node.alone("snapshot"), node.discovery.backup_lock() as lock:
        cluster, _, verdict = _look(node, asked=asked)
        if not verdict.take or cluster.record is None:
            return verdict.reason
        LOG.info("taking a snapshot: %s", verdict.reason)

        def report(line: str) -> None:
            """Whoever has lost the lock ends here: another one may be at work already."""
            lock.check()
            LOG.info("%s", line)

        with node.local(timeout=5.0) as conn:
            manifest = take(
                node.settings,
                conn,
                node.store,
                cluster_id=cluster.record.id,
                name=snapshot_name(node.settings, time.time()),
                progress=report,
            )
        _remove_unusable(node, manifest)
        node.discovery.record_snapshot(entry(manifest), lock)
        LOG.info("snapshot %s is complete: %d bytes", manifest.id, manifest.size)
        _tidy(node, manifest)
    return ""


def _look(node: Node, *, asked: bool = False) -> tuple[ClusterView, ServerState, Due]:
    settings = node.settings
    cluster = node.discovery.view()
    with node.local() as conn:
        server = read_state(conn)
    verdict = due(
        cluster,
        server,
        name=node.name,
        session=cluster.sessions.get(node.name),
        snapshot_node=settings.snapshot_node,
        ttl=settings.backup_ttl,
        now=time.time(),
        asked=asked,
    )
    return cluster, server, verdict


def _remove_unusable(node: Node, manifest: Manifest) -> None:
    """A snapshot counts only if a new node could follow from it (SPEC 6, Holes); SnapshotError if not."""
    with node.local() as conn:
        server = read_state(conn)
    beyond = GtidSet.parse(manifest.gtid_after) - server.executed
    if beyond or not server.purged <= GtidSet.parse(manifest.gtid):
        node.store.delete(manifest.name)
        node.store.delete(manifest.id)
        raise SnapshotError(f"snapshot {manifest.id} is not usable and is removed: its GTID set does not fit")


def _tidy(node: Node, newest: Manifest) -> None:
    """Remove what retention lets go; a fault of it leaves the new snapshot as good as it is."""
    settings, store = node.settings, node.store
    keep, keep_days = settings.snapshot_keep, settings.snapshot_keep_days
    try:
        if keep is None and keep_days is None:
            return
        found = manifests(store, settings)
        since = min(one.at for one in found if one.cluster_id == newest.cluster_id)
        retention.remove_orphans(settings, store, time.time(), since)
        surplus = retention.surplus(
            found,
            cluster_id=newest.cluster_id,
            keep=keep,
            keep_days=keep_days,
            now=time.time(),
            spared={newest.id},
        )
        for old in surplus:
            if retention.remove(store, old, node.discovery.being_restored):
                LOG.info("snapshot %s is removed: it is not kept any longer", old.id)
    except CannotList:
        LOG.debug("this driver cannot list, so nothing is removed")
    except (StoreError, ConsulError) as error:
        LOG.warning("old snapshots stay: %s", error)
