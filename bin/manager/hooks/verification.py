"""`verify`: find out whether a snapshot can be trusted, and write down what was found."""

from __future__ import annotations

import logging
import time

from manager.discovery.cluster import ClusterView
from manager.errors import AutopilotError, Busy, SnapshotDamaged
from manager.hooks.snapshots import latest
from manager.node import Node
from manager.snapshot.catalogue import find
from manager.snapshot.guarded import told
from manager.snapshot.manifest import GOOD
from manager.snapshot.verdict import give
from manager.snapshot.verify import LOCK, be_modest, verify

LOG = logging.getLogger(__name__)


def run(node: Node, *, snapshot: str | None) -> int:
    """Verify a snapshot, by default the one that a new node would start with; return 0 if it is good, 1 if bad.

    AutopilotError if that could not be found out, or not be written down.
    """
    be_modest()
    try:
        with node.alone(LOCK):
            snapshot_id = snapshot or latest(node)
            # Noted first: one that cannot be carried through is not begun again at once.
            node.discovery.note_verification(time.time())
            with told(node, snapshot_id):
                verdict = _verdict(node, snapshot_id)
                give(node, snapshot_id, verdict)
    except Busy as busy:
        raise AutopilotError(str(busy)) from None
    print(f"{snapshot_id}: {verdict}")
    (LOG.info if verdict == GOOD else LOG.error)("snapshot %s is verified: %s", snapshot_id, verdict)
    return 0 if verdict == GOOD else 1


def _verdict(node: Node, snapshot_id: str) -> str:
    try:
        return verify(node, find(node.store, snapshot_id))
    except SnapshotDamaged as damage:
        return str(damage)


def due(node: Node, cluster: ClusterView, now: float) -> bool:
    """True if VERIFY_INTERVAL is set and over, and it is this node's turn: a replica's, if one is healthy."""
    interval, record = node.settings.verify_interval, cluster.record
    if interval is None or record is None or cluster.last_snapshot is None:
        return False
    healthy = cluster.healthy_replicas
    if node.name != (healthy[0] if healthy else record.primary_name):
        return False
    since = now - node.discovery.last_verification()
    return since >= interval
