"""The whole life of a cluster under ContainerPilot, and of one whose nodes have different pilots (127.0.77).

What runs etc/containerpilot.json5 is $CONTAINERPILOT, or the driver in tests/containerpilot.
"""

from __future__ import annotations

import contextlib
import os
import signal
import urllib.request
from collections.abc import Iterator

import pytest

from manager import metrics
from sandbox import marked
from sandbox.cluster import Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from sandbox.writer import Writer
from tests.integration.clusters import (
    LONG,
    consul,
    converged,
    goes_on,
    never,
    roles,
    running,
    server_pid,
    the_record,
    until,
)

pytestmark = [pytest.mark.failover, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    with running(packages, "containerpilot", "127.0.77", pilot="containerpilot") as made:
        made.add_node()
        made.add_node()
        made.add_node(pilot="consul")
        yield made


def shown(cluster: Cluster, service: str) -> list[str]:
    """The nodes that pass in a service."""
    return [one.node for one in cluster.catalogue.passing(service)]


def scraped(node: Node) -> dict[str, float]:
    """The node's own metrics."""
    with urllib.request.urlopen(f"http://{node.address}:9090/metrics", timeout=5.0) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith(metrics.PREFIX))
    return {name.removeprefix(metrics.PREFIX): float(value) for name, value in pairs}


def test_the_nodes_of_both_pilots_make_one_cluster(cluster: Cluster) -> None:
    converged(cluster, 2)
    assert len(shown(cluster, "mysql-node")) == 3


def test_every_node_shows_its_metrics_whatever_its_pilot(cluster: Cluster) -> None:
    converged(cluster, 2)
    primary, replicas = roles(cluster)

    def as_they_are() -> bool:
        of_primary, of_replicas = scraped(primary), [scraped(node) for node in replicas]
        return (
            of_primary.get("primary") == 1
            and of_primary.get("members") == 2
            and all(one.get("replica") == 1 and one.get("replication_running") == 1 for one in of_replicas)
            and all(one.get("health_runs_total", 0) > 0 for one in (of_primary, *of_replicas))
            and {one.get("epoch") for one in (of_primary, *of_replicas)} == {the_record(cluster)["epoch"]}
        )

    until(as_they_are, LONG, lambda: str({node.name: scraped(node) for node in cluster.nodes}))


@pytest.mark.parametrize("times", [1, 2])
def test_the_role_goes_to_and_fro_between_pilots_and_no_mysqld_is_restarted(
    cluster: Cluster, client: Writer, times: int
) -> None:
    old, others = roles(cluster)
    one = next(node for node in others if (node.containerpilot is None) != (old.containerpilot is None))
    servers = {node.name: server_pid(node) for node in cluster.nodes}
    done = cluster.manage("switchover", "--to", one.name)
    assert done.returncode == 0, done.stderr
    goes_on(client)
    assert shown(cluster, "mysql-primary") == [one.name]
    never(lambda: old.name in shown(cluster, "mysql-primary"), 8.0, "the former primary passes again")
    assert {node.name: server_pid(node) for node in cluster.nodes} == servers, "a mysqld was restarted"


def test_a_killed_mysqld_is_replaced_and_comes_back(cluster: Cluster, client: Writer) -> None:
    primary, _ = under_containerpilot(cluster)
    os.kill(server_pid(primary), signal.SIGKILL)
    goes_on(client)
    converged(cluster, 2)


@pytest.mark.long
def test_a_killed_node_is_replaced(cluster: Cluster, client: Writer) -> None:
    primary, _ = under_containerpilot(cluster)
    epoch = the_record(cluster)["epoch"]
    primary.kill()
    until(lambda: the_record(cluster)["epoch"] > epoch, LONG, "nobody is promoted")
    goes_on(client)
    primary.start()


@pytest.mark.long
def test_a_frozen_mysqld_is_found_out(cluster: Cluster, client: Writer) -> None:
    primary, _ = under_containerpilot(cluster)
    pid = server_pid(primary)
    os.kill(pid, signal.SIGSTOP)
    goes_on(client)
    with contextlib.suppress(ProcessLookupError):  # its own node has killed it by now, or will
        os.kill(pid, signal.SIGCONT)


@pytest.mark.long
def test_a_clean_stop_hands_over_first_and_leaves_nothing_behind(cluster: Cluster, client: Writer) -> None:
    primary, _ = under_containerpilot(cluster)
    reason = the_record(cluster)["reason"]
    primary.stop()
    found = the_record(cluster)
    assert found["primary_name"] != primary.name
    assert "is being stopped" in found["reason"] != reason
    goes_on(client)
    left = [one["Node"]["Node"] for one in consul(cluster, "health/service/mysql-node") or ()]
    assert f"mysql-{primary.name}" not in left
    assert "shutdown" in primary.logs().lower()
    primary.start()


def test_a_replicas_consul_registration_is_healed(cluster: Cluster, client: Writer) -> None:
    converged(cluster, 2)
    replica = next(node for node in roles(cluster)[1] if node.containerpilot is not None)
    for service in ("mysql", "mysql-node"):
        path = f"http://{replica.address}:8500/v1/agent/service/deregister/{service}-{replica.name}"
        urllib.request.urlopen(urllib.request.Request(path, method="PUT"), timeout=5.0).close()
    until(lambda: replica.name in shown(cluster, "mysql"), LONG, "the replica is not shown again")
    until(lambda: replica.name in shown(cluster, "mysql-node"), LONG, "the node is not shown again")


def under_containerpilot(cluster: Cluster) -> tuple[Node, list[Node]]:
    """The primary, which is made one under ContainerPilot if need be, and the others."""
    converged(cluster, 2)
    primary, others = roles(cluster)
    if primary.containerpilot is None:
        done = cluster.manage("switchover", "--to", others[0].name)
        assert done.returncode == 0, done.stderr
        converged(cluster, 2)
    return roles(cluster)


def test_a_node_that_is_killed_while_it_starts_comes_up(cluster: Cluster, client: Writer) -> None:
    converged(cluster, 2)
    replica = next(node for node in roles(cluster)[1] if node.containerpilot is not None)
    replica.kill()
    replica.start()
    for word in ("pre_start", "mysqld", "health"):
        until(lambda word=word: _run(replica, word), LONG, f"no {word} runs", 0.01)
        for pid in _run(replica, word):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    converged(cluster, 2)


def _run(node: Node, word: str) -> list[int]:
    """The node's processes that are a hook, or a program of the pilot, of that name."""
    return [pid for pid in marked.processes(node.directory) if marked.command_line(str(pid))[-1:] == [word]]
