"""How a cluster begins: exactly once, in whatever order its nodes come, and whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from sandbox.cluster import Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from tests.integration.clusters import (
    LONG,
    converged,
    local,
    never,
    open_nodes,
    record,
    running,
    shown,
    the_record,
    until,
)

pytestmark = pytest.mark.timeout(600)

RUNS = int(os.environ.get("FOUNDING_RUNS", "1"))


@pytest.fixture
def cluster(packages: Packages) -> Iterator[Cluster]:
    """A Consul that knows nothing, and no node yet."""
    with running(packages, "founding", "127.0.61") as made:
        yield made


def founded_by(cluster: Cluster) -> set[str]:
    """The nodes that have ever set up a cluster's accounts; each prints the password it generated."""
    return {node.name for node in cluster.nodes if "GENERATED ROOT PASSWORD" in node.logs()}


@pytest.mark.parametrize("run", range(RUNS))
def test_five_nodes_at_once_make_one_primary(cluster: Cluster, run: int) -> None:
    for _ in range(5):
        cluster.add_node()
    seen: set[str] = set()

    def all_there() -> bool:
        seen.update(open_nodes(cluster))
        return len(cluster.catalogue.replicas) == 4

    until(all_there, 2 * LONG, lambda: f"healthy replicas: {cluster.catalogue.replicas}")
    found = converged(cluster, replicas=4)
    assert found["epoch"] == 1
    assert found["primaries"] == [found["primary"]]
    assert seen == {found["primary_name"]}, "another server was open for writing before"
    assert founded_by(cluster) == {found["primary_name"]}


def test_nodes_that_come_one_after_the_other_make_one_primary(cluster: Cluster) -> None:
    cluster.add_node()
    assert cluster.wait_primary(LONG).node == "node-1"
    for more in (2, 4):
        cluster.add_node()
        cluster.add_node()
        found = converged(cluster, replicas=more)
        assert (found["primary_name"], found["epoch"]) == ("node-1", 1)
    assert founded_by(cluster) == {"node-1"}


def hold_guard(node: Node) -> Any:
    """Take the guard of a server as soon as it answers, so that its own health cannot set it up."""
    holding: list[Any] = []

    def taken() -> bool:
        with contextlib.suppress(pymysql.MySQLError, OSError):
            connection = local(node)
            holding.append(connection)
            with connection.cursor() as cursor:
                # A guard that looks old would be taken away; this one was taken in the future.
                cursor.execute("SET @autopilot_guard = CAST(UTC_TIMESTAMP(6) + INTERVAL 1 HOUR AS CHAR)")
                cursor.execute("SELECT GET_LOCK('autopilot', 0) AS got")
                return bool(cursor.fetchone()["got"])
        return False

    until(taken, LONG, f"the server of {node.name} does not answer", interval=0.02)
    return holding[-1]


@pytest.mark.long
def test_a_founder_that_dies_before_its_first_opening_is_replaced(cluster: Cluster) -> None:
    founder = cluster.add_node()
    guard = hold_guard(founder)
    began = until(lambda: record(cluster), LONG, "node-1 has not begun to found the cluster")
    assert (began["state"], began["epoch"], began["primary_name"]) == ("founding", 1, "node-1")
    never(lambda: open_nodes(cluster), 3.0, "open without having been set up")
    founder.kill()
    guard.close()
    assert the_record(cluster)["state"] == "founding", "node-1 was set up in spite of the guard"

    cluster.add_node()
    cluster.wait_primary(LONG)
    taken_over = the_record(cluster)
    assert taken_over["id"] == began["id"]
    assert (taken_over["state"], taken_over["epoch"], taken_over["primary_name"]) == ("open", 2, "node-2")

    founder.start()

    def settled() -> bool:
        assert open_nodes(cluster) in ([], ["node-2"]), "a second primary"
        replica = [one.node for one in cluster.catalogue.replicas] == ["node-1"]
        return replica or "diverged" in str(shown(cluster, "node-1").get("note"))

    until(settled, LONG, "node-1 is neither a replica nor out for a reason")
    after = the_record(cluster)
    assert (after["id"], after["epoch"], after["primary_name"]) == (began["id"], 2, "node-2")
    assert open_nodes(cluster) == ["node-2"]
