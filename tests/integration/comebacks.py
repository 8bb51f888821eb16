"""What the tests of a diverged node's return ask of it and of the store."""

from __future__ import annotations

import json
import re
from typing import Any

from manager.comeback import state
from manager.comeback.state import Comeback
from manager.gtid import GtidSet
from manager.settings import load
from manager.storage import Store, open_store
from sandbox.cluster import Cluster
from sandbox.node import Node
from tests.integration.clusters import converged


def roles(cluster: Cluster) -> tuple[Node, list[Node]]:
    """The primary, and the others."""
    name = converged(cluster, replicas=2)["primary_name"]
    return cluster.node(name), [node for node in cluster.nodes if node.name != name]


def comeback(node: Node) -> Comeback | None:
    return state.read(node.directory / "data")


def the_store(node: Node) -> Store:
    return open_store(load(node.env))


def the_saved(node: Node, uuid: str) -> tuple[dict[str, Any], str, dict[str, bytes]]:
    """The one folder that was saved of a server: its description, its decoded text, and its objects."""
    store = the_store(node)
    names = [each.name for each in store.list(f"mysql-diverged-{node.name}-{uuid}")]
    assert len({name.rpartition("/")[0] for name in names}) == 1, names
    objects = {name.rpartition("/")[2]: store.get_bytes(name) for name in names}
    return json.loads(objects["diverged.json"]), objects["transactions.sql"].decode(), objects


def decoded(text: str) -> tuple[GtidSet, set[int]]:
    """The transactions in what mysqlbinlog printed, and the first column of their rows."""
    gtids = GtidSet.parse(",".join(re.findall(r"GTID_NEXT= '([0-9a-f-]{36}:[^']+)'", text)))
    return gtids, {int(number) for number in re.findall(r"^###   @1=(\d+)", text, re.MULTILINE)}
