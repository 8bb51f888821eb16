"""How a cluster begins: exactly once, whoever is first, and never beside a cluster that may still live."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from sandbox.cluster import Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from sandbox.servers import consul_ready
from tests.integration.clusters import (
    LONG,
    ask,
    converged,
    kill_consul,
    local,
    lock_session,
    look,
    never,
    open_nodes,
    record,
    running,
    shown,
    the_record,
    until,
    write,
)

pytestmark = pytest.mark.timeout(600)

RUNS = int(os.environ.get("FOUNDING_RUNS", "2"))
SOON = {"SNAPSHOT_INTERVAL": "2"}
HEALTH_INTERVALS = 8.0


@pytest.fixture
def clusters(packages: Packages) -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def start(clusters: contextlib.ExitStack, packages: Packages, subnet: int, nodes: int, **options: Any) -> Cluster:
    name = f"founding-{subnet}"
    return clusters.enter_context(running(packages, name, f"127.0.{subnet}", nodes=nodes, **options))


def founded_by(cluster: Cluster) -> set[str]:
    """The nodes that have ever set up a cluster's accounts; each prints the password it generated."""
    return {node.name for node in cluster.nodes if "GENERATED ROOT PASSWORD" in node.logs()}


@pytest.mark.parametrize("run", range(RUNS))
def test_five_nodes_at_once_make_one_primary(
    packages: Packages, clusters: contextlib.ExitStack, run: int
) -> None:
    cluster = start(clusters, packages, 61, 5)
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


def test_nodes_that_come_one_after_the_other_make_one_primary(
    packages: Packages, clusters: contextlib.ExitStack
) -> None:
    cluster = start(clusters, packages, 61, 1)
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


def test_a_founder_that_dies_before_its_first_opening_is_replaced(
    packages: Packages, clusters: contextlib.ExitStack
) -> None:
    cluster = start(clusters, packages, 61, 1)
    founder = cluster.node("node-1")
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


def has_snapshot(cluster: Cluster) -> bool:
    return cluster.catalogue.key(f"{cluster.service_name}-last-backup") is not None


def kept(cluster: Cluster) -> dict[str, Any]:
    """What a neighbour must not change."""
    server = look(cluster.node("node-1"))
    assert server is not None
    return {
        "record": the_record(cluster),
        "lock": lock_session(cluster),
        "snapshot": cluster.catalogue.key(f"{cluster.service_name}-last-backup"),
        "primary": cluster.catalogue.primary,
        "executed": server.executed,
        "open": server.open,
    }


def test_clusters_with_different_names_share_a_consul_and_one_that_lost_it_is_not_founded_anew(
    packages: Packages, clusters: contextlib.ExitStack
) -> None:
    """Two points with the same two clusters, which take a while to come up."""
    cluster = start(clusters, packages, 62, 1, service_name="shop", env=SOON)
    cluster.wait_primary(LONG)
    other = start(clusters, packages, 63, 2, service_name="shop-2", beside=cluster, env=SOON)
    converged(other, replicas=1)
    until(lambda: has_snapshot(cluster) and has_snapshot(other), LONG, "no snapshots")
    before = kept(cluster)
    failed = the_record(other)["primary_name"]
    other.node(failed).kill()
    other.wait_primary(LONG, other_than=failed)
    assert the_record(other)["epoch"] == 2
    assert the_record(other)["id"] != before["record"]["id"]
    assert kept(cluster) == before
    other.down()

    meets_an_empty_consul(cluster)


def meets_an_empty_consul(cluster: Cluster) -> None:
    before = the_record(cluster)
    write(cluster, "CREATE TABLE kept (n INT PRIMARY KEY)")
    write(cluster, "INSERT INTO kept VALUES (1)")
    old = cluster.node("node-1")
    old.kill()
    kill_consul(cluster)
    shutil.rmtree(cluster.directory / "consul" / "data")
    cluster.start_consul()
    until(lambda: consul_ready(cluster.consul_address), LONG, "Consul does not start")
    assert record(cluster) is None

    fresh = cluster.add_node()
    until(
        lambda: "this node may not found a cluster" in fresh.logs(),
        LONG,
        "the fresh node does not say why it founds nothing",
    )
    assert "the store holds" in fresh.logs()
    never(lambda: record(cluster) or open_nodes(cluster), HEALTH_INTERVALS, "founded beside a snapshot")
    until(
        lambda: "may not found a cluster" in str(shown(cluster, fresh.name).get("note")),
        30.0,
        lambda: f"status does not say why: {json.dumps(shown(cluster, fresh.name))}",
    )

    old.start()
    after = converged(cluster, replicas=1)
    assert (after["id"], after["epoch"], after["primary_name"]) == (before["id"], before["epoch"], "node-1")
    assert ask(fresh, "SELECT n FROM app.kept") == [{"n": 1}]
