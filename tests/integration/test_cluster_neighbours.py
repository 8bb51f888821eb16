"""Clusters that share a Consul, and a Consul that has forgotten a cluster which may still live."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.cluster import Cluster
from sandbox.packages import Packages
from sandbox.servers import consul_ready
from tests.integration.clusters import (
    LONG,
    ask,
    converged,
    kill_consul,
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

SOON = {"SNAPSHOT_INTERVAL": "2"}
HEALTH_INTERVALS = 8.0


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    """One node that is a cluster."""
    with running(packages, "shop", "127.0.62", nodes=1, service_name="shop", env=SOON) as made:
        yield made


@pytest.fixture
def other(packages: Packages, cluster: Cluster) -> Iterator[Cluster]:
    """Two nodes with another SERVICE_NAME, and Consul and S3 of the first cluster."""
    with running(
        packages, "shop-2", "127.0.63", nodes=2, service_name="shop-2", beside=cluster, env=SOON
    ) as made:
        yield made


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


def test_clusters_with_different_names_do_not_touch_each_other(cluster: Cluster, other: Cluster) -> None:
    converged(cluster, replicas=0)
    converged(other, replicas=1)
    until(lambda: has_snapshot(cluster) and has_snapshot(other), LONG, "no snapshots")
    before = kept(cluster)
    failed = the_record(other)["primary_name"]
    other.node(failed).kill()
    other.wait_primary(LONG, other_than=failed)
    assert the_record(other)["epoch"] == 2
    assert the_record(other)["id"] != before["record"]["id"]
    assert kept(cluster) == before


def test_an_empty_consul_does_not_make_a_fresh_node_found_beside_a_snapshot(cluster: Cluster) -> None:
    before = converged(cluster, replicas=0)
    until(lambda: has_snapshot(cluster), LONG, "no snapshot")
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
