"""Which snapshot a node begins with."""

from __future__ import annotations

from pathlib import Path

from manager.hooks import pre_start
from manager.node import Node
from manager.settings import load
from tests.unit.worlds import cluster, snapshot


def test_another_clusters_last_snapshot_is_not_restored(tmp_path: Path) -> None:
    """LAST_BACKUP_KEY may be shared by mistake, or hold what was before `bootstrap --force`."""
    environ = {
        "NODE_ADDRESS": "127.0.0.1",
        "BACKUP_DRIVER": "local",
        "STORAGE_DIR": str(tmp_path),
        "MYSQL_DATADIR": str(tmp_path / "data"),
    }
    theirs = cluster(last_snapshot=snapshot(cluster_id="cluster-2"))
    assert pre_start._restore_last(Node(load(environ)), theirs) is None
    assert list(tmp_path.iterdir()) == []
