"""`snapshots`: what the store holds; `restore`: a data directory from it, anywhere."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from manager import nodefile
from manager.discovery.cluster import ClusterView
from manager.errors import AutopilotError, ConsulError, SnapshotError
from manager.mysql.ownership import give_to_mysqld
from manager.node import Node
from manager.nodefile import NodeFile
from manager.snapshot.catalogue import manifests
from manager.snapshot.guarded import restore_here
from manager.snapshot.manifest import Manifest
from manager.snapshot.progress import size_text
from manager.table import table

LOG = logging.getLogger(__name__)

COLUMNS = ("snapshot", "taken", "size", "unpacked", "server", "engine", "transactions", "verified", "")


def show(node: Node, *, as_json: bool) -> int:
    """Print this service's snapshots, the newest first; 0 if there is one, 1 if none. StoreError, CannotList."""
    cluster = _cluster(node)
    found = manifests(node.store, node.settings)
    rows = [describe(each, cluster) for each in found]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print(table(COLUMNS, [_row(row) for row in rows]) if rows else "there is no snapshot")
    return 0 if found else 1


def describe(manifest: Manifest, cluster: ClusterView | None) -> dict[str, Any]:
    """Return what people and programs are told of one snapshot, as plain values. Pure."""
    record = cluster.record if cluster is not None else None
    last = cluster.last_snapshot if cluster is not None else None
    return {
        "id": manifest.id,
        "path": manifest.path,
        "taken_at": manifest.at,
        "taken_on": manifest.taken_on,
        "size_bytes": manifest.size,
        "unpacked_bytes": manifest.unpacked,
        "server_version": manifest.server_version,
        "engine": manifest.engine,
        "gtid": manifest.gtid,
        "cluster_id": manifest.cluster_id,
        "of_this_cluster": None if record is None else manifest.cluster_id == record.id,
        "recorded": last is not None and last.id == manifest.id,
        "verdict": manifest.verdict,
        "verified_at": manifest.verified_at or None,
        "encryption": manifest.encryption,
        "recipient": manifest.recipient,
    }


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    notes = ["the next node starts with it"] if row["recorded"] else []
    notes += ["of another cluster"] if row["of_this_cluster"] is False else []
    notes += ["encrypted"] if row["encryption"] else []
    return (
        row["id"],
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row["taken_at"])),
        size_text(row["size_bytes"]),
        size_text(row["unpacked_bytes"]),
        row["server_version"],
        row["engine"],
        row["gtid"] if len(row["gtid"]) <= 50 else f"{row['gtid'][:47]}...",
        row["verdict"] or "not yet",
        ", ".join(notes),
    )


def _cluster(node: Node) -> ClusterView | None:
    try:
        return node.discovery.view()
    except ConsulError as error:
        LOG.warning("only the store is asked: %s", error)
        return None


def restore_to(node: Node, *, snapshot: str | None, datadir: Path) -> int:
    """Build a data directory from a snapshot, by default the one that a new node would start with, and return 0.

    AutopilotError: the directory is not empty, there is no such snapshot, or the restore fails. What is half-made
    bears the mark of it, and is emptied by the next try.
    """
    snapshot = snapshot or latest(node)
    datadir.mkdir(parents=True, exist_ok=True)
    if nodefile.is_building(datadir):
        nodefile.empty(datadir)
    elif any(entry.name != nodefile.LOST_AND_FOUND for entry in datadir.iterdir()):
        raise SnapshotError(f"{datadir} is not empty: nothing is restored over what is there")
    nodefile.begin_building(datadir)
    manifest = restore_here(node, snapshot, datadir)
    nodefile.write(datadir, NodeFile(origin="restored", cluster_id=manifest.cluster_id, snapshot=snapshot))
    give_to_mysqld(node.settings, datadir)
    nodefile.end_building(datadir)
    print(
        f"{snapshot} is restored in {datadir}: {size_text(manifest.unpacked)}, gtid_executed {manifest.gtid}"
    )
    return 0


def latest(node: Node) -> str:
    """Return the id of the snapshot that a new node would start with; AutopilotError if there is none."""
    cluster = _cluster(node)
    if cluster is not None and cluster.last_snapshot is not None:
        return cluster.last_snapshot.id
    found = [each.id for each in manifests(node.store, node.settings) if not each.bad]
    if not found:
        raise AutopilotError("there is no snapshot to restore")
    return found[0]
