"""The replicas that a primary has seen, kept beside its data for when Consul is away or has forgotten."""

from __future__ import annotations

import json
import os

from manager.discovery.cluster import ClusterView
from manager.node import Node

FILE = ".autopilot-known.json"


def read(node: Node) -> frozenset[str]:
    """Return `name address port` of every known replica; none if this node never was a primary."""
    try:
        return frozenset(json.loads((node.settings.mysql_datadir / FILE).read_text()))
    except (FileNotFoundError, ValueError):
        return frozenset()


def write(node: Node, cluster: ClusterView) -> None:
    """Keep the other nodes that have a role now; written only when they have changed."""
    now = frozenset(f"{i.name} {i.address} {i.port}" for i in cluster.of("replica") if i.name != node.name)
    if now == read(node):
        return
    path = node.settings.mysql_datadir / FILE
    temporary = path.with_name(FILE + ".new")
    temporary.write_text(json.dumps(sorted(now)))
    os.replace(temporary, path)
