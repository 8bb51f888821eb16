"""Our side of `make bench-snapshot`, in a process of its own like a hook: `put`, or `get DATADIR`.

What `manage.py snapshot` and `manage.py restore` load is loaded, so that the memory is theirs; Consul is left out.
Prints the process's peak memory (VmHWM: no child's, and nothing of who started it) in MB.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from manager import log
from manager.hooks import snapshot_task, snapshots
from manager.node import Node
from manager.settings import load

SNAPSHOT = "mysql-backup-bench"


def put(node: Node) -> None:
    """Take a snapshot, as `snapshot_task` does once it has the locks."""
    with node.local(timeout=5.0) as conn:
        snapshot_task.take(node.settings, conn, node.store, cluster_id="bench", name=SNAPSHOT)


def get(node: Node, datadir: Path) -> None:
    """Restore it into `datadir`; nobody can be told of it."""
    snapshots.restore_to(node, snapshot=SNAPSHOT, datadir=datadir)


def peak_rss_mb() -> float:
    """Return the most memory that this process has had, in MB (10^6 bytes)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def main(arguments: list[str]) -> int:
    """Do what is asked; manager's errors as they are."""
    settings = load(os.environ)
    log.configure(settings.log_level, arguments[0], settings.secrets)
    node = Node(settings)
    if arguments[0] == "put":
        put(node)
    else:
        get(node, Path(arguments[1]))
    print(f"{peak_rss_mb():.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
