"""A cluster whose nodes have no Consul agent of their own: ContainerPilot, and the Consul server (127.0.76)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.cluster import Cluster
from sandbox.packages import Packages
from sandbox.writer import Writer
from tests.integration.clusters import LONG, consul, converged, goes_on, roles, running, the_record, until

pytestmark = [pytest.mark.failover, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    settings = {"CONSUL_AGENT": "no"}
    with running(packages, "agentless", "127.0.76", nodes=3, pilot="containerpilot", env=settings) as made:
        yield made


def test_the_nodes_are_registered_at_the_server(cluster: Cluster) -> None:
    converged(cluster, 2)
    assert [member["Name"] for member in consul(cluster, "agent/members")] == ["consul"]
    assert {one.node for one in cluster.catalogue.passing("mysql-node")} == {"node-1", "node-2", "node-3"}


def test_a_killed_node_is_replaced_and_comes_back(cluster: Cluster, client: Writer) -> None:
    primary, _ = roles(cluster)
    epoch = the_record(cluster)["epoch"]
    primary.kill()
    until(lambda: the_record(cluster)["epoch"] > epoch, LONG, "nobody is promoted")
    goes_on(client)
    primary.start()


def test_a_clean_stop_hands_over_first(cluster: Cluster, client: Writer) -> None:
    primary, _ = roles(cluster)
    primary.stop()
    goes_on(client)
    assert the_record(cluster)["primary_name"] != primary.name
    primary.start()
