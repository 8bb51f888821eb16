"""What can be done to a node of the sandbox, and that nothing of it is left (subnet 127.0.71)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import marked
from sandbox.cluster import Cluster, SandboxError
from sandbox.node import Node
from sandbox.packages import ROOT, Packages
from tests.integration.clusters import LONG, consul, converged, look, running, until

SUBNET = "127.0.71"


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    """Two nodes; every test leaves both running."""
    with running(packages, "sandbox", SUBNET, nodes=2) as one:
        converged(one, replicas=1)
        yield one


@pytest.fixture
def replica(cluster: Cluster) -> Node:
    record = converged(cluster, replicas=1)
    return next(node for node in cluster.nodes if node.name != record["primary_name"])


def back(cluster: Cluster, node: Node) -> None:
    """Start a node again and wait for its server: Consul shows a killed node as healthy for a moment."""
    node.start()
    until(lambda: (server := look(node)) is not None and not server.offline, LONG, f"{node.name} is not back")
    converged(cluster, replicas=1)


def programs(node: Node) -> set[str]:
    """The names of the node's processes."""
    names = set()
    for pid in marked.processes(node.directory):
        try:
            names.add(Path(f"/proc/{pid}/comm").read_text().strip())
        except FileNotFoundError:
            continue
    return names


def states(node: Node) -> set[str]:
    """The states of the node's processes, as ps shows them."""
    found = set()
    for pid in marked.processes(node.directory):
        found.add(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    return found


def test_a_node_is_its_own_processes_only(cluster: Cluster, replica: Node) -> None:
    assert {"mysqld", "consul", "supervisord"} <= programs(replica)
    others = [marked.processes(node.directory) for node in cluster.nodes if node.name != replica.name]
    assert not marked.processes(replica.directory) & set().union(*others)


def test_kill_reaches_what_a_hook_has_detached(cluster: Cluster, replica: Node) -> None:
    detached = subprocess.Popen(
        ["setsid", "sleep", "600"], env={**os.environ, marked.MARKER: str(replica.directory)}
    )
    until(lambda: detached.pid in marked.processes(replica.directory), LONG, "the process is not found")
    replica.kill()
    assert detached.wait(10) == -9
    assert not replica.running
    back(cluster, replica)


def test_a_frozen_node_answers_again_when_it_is_thawed(replica: Node) -> None:
    replica.freeze()
    try:
        until(lambda: states(replica) == {"T"}, LONG, "not every process is stopped")
        with socket.create_connection((replica.address, 3306), timeout=5) as connection:
            connection.settimeout(1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
    finally:
        replica.thaw()
    assert replica.mysql("SELECT 1 AS one") == [{"one": 1}]


def test_a_stopped_node_shuts_its_server_down_and_leaves_consul(cluster: Cluster, replica: Node) -> None:
    replica.stop()
    assert not replica.running
    assert "Shutdown complete" in "\n".join(replica.logs().splitlines()[-40:])
    names = {one["Node"] for one in consul(cluster, "catalog/nodes")}
    assert f"mysql-{replica.name}" not in names
    back(cluster, replica)


def test_a_removed_node_is_gone_from_consul_even_if_it_was_killed(cluster: Cluster) -> None:
    node = cluster.add_node()
    until(
        lambda: any(one["Node"] == f"mysql-{node.name}" for one in consul(cluster, "catalog/nodes")),
        LONG,
        "absent",
    )
    node.kill()
    cluster.remove_node(node.name)
    until(
        lambda: all(one["Node"] != f"mysql-{node.name}" for one in consul(cluster, "catalog/nodes")),
        LONG,
        "the dead node stays in the catalogue",
    )
    assert not node.directory.exists()
    with pytest.raises(SandboxError, match="there is no node"):
        cluster.node(node.name)


def test_the_command_line_acts_on_the_same_cluster(cluster: Cluster, replica: Node) -> None:
    env = {**os.environ, "AUTOPILOT_SANDBOX": str(cluster.directory)}

    def ctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "sandbox" / "ctl"), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=LONG, check=False)

    nodes = json.loads(ctl("status", "--json").stdout)["nodes"]
    assert {one["node"] for one in nodes} == {f"mysql-{node.name}" for node in cluster.nodes}
    assert "pre_start" in ctl("logs", replica.name).stdout
    assert ctl("mysql", replica.name, "-Ne", "SELECT @@super_read_only").stdout == "1\n"
    refused = ctl("kill", "node-77")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "there is no node 'node-77'" in refused.stderr
    assert ctl("up").stderr.startswith("sandbox: there is a cluster in ")


def test_its_passwords_are_readable_by_nobody_else(cluster: Cluster) -> None:
    holding = [
        path
        for path in cluster.directory.rglob("*")
        if path.is_file()
        and path.stat().st_mode & 0o077
        and any(
            secret.encode() in path.read_bytes()
            for name, secret in cluster.secrets.items()
            if name != "AWS_ACCESS_KEY"
        )
        and "data" not in path.relative_to(cluster.directory).parts
    ]
    assert holding == []


def test_nothing_is_left_of_a_cluster(packages: Packages) -> None:
    with running(packages, "sandbox-gone", "127.0.72", nodes=1) as one:
        until(lambda: marked.processes(one.directory / "node-1"), LONG, "the node did not start")
        one.down()
        assert not marked.processes(one.directory)
        assert not one.directory.exists()
        assert not list(Path("/tmp").glob("seaweedfs-*127.0.72.2.sock"))
