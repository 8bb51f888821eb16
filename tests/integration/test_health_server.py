"""`health` of a node that is alone with a real server and a real Consul; the test is its pilot (127.0.117).

Its services are those of ContainerPilot, since there the hooks register all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from manager.discovery.discovery import Discovery
from manager.errors import ServerUnreachable, Unhealthy
from manager.hooks import health
from manager.node import Node
from manager.nodefile import NodeFile
from manager.view import primary_instance
from sandbox import servers
from sandbox.packages import Packages
from sandbox.processes import Process, wait_for
from tests.integration import consul_nodes, mysql_nodes

ADDRESS, OTHER = "127.0.117.1", "127.0.117.2"
CONSUL = {
    "CONSUL": ADDRESS,
    "CONSUL_AGENT": "1",
    "CONSUL_CLIENT_ADDRESS": ADDRESS,
    "NODE_NAME": "node-1",
    "PILOT": "containerpilot",
    "DURABILITY": "async",
}

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server(packages: Packages, module_directory: Path) -> Iterator[mysql_nodes.Node]:
    """Started closed on an empty database, which may found a cluster."""
    made = mysql_nodes.Node(packages, module_directory / "node-1", ADDRESS, **CONSUL)
    made.start()
    Node(made.settings).write_file(NodeFile(origin="initialised", may_found=True))
    yield made
    if made.process is not None:
        made.process.kill()


@pytest.fixture
def mysqld(server: mysql_nodes.Node) -> Process:
    """Its process, to be frozen."""
    assert server.process is not None
    return server.process


@pytest.fixture
def node(server: mysql_nodes.Node, start_consul: Callable[..., servers.Consul]) -> Node:
    """What the hooks have in hand. Each test has a Consul of its own, which knows nothing of the node."""
    start_consul(ADDRESS)
    return Node(server.settings)


def sessions(node: Node) -> list[str]:
    """The ids of all sessions under this node's name."""
    return consul_nodes.Node(node.settings, node.discovery).listed()


def is_primary(node: Node) -> bool:
    """True once health has made it, or found it to be, the one that the record, the lock and the service name."""
    health.run(node, None)
    seen = node.discovery.view()
    shown = primary_instance(seen)
    held = seen.lock_session is not None and [seen.lock_session] == sessions(node)
    return held and seen.record is not None and shown is not None and shown.name == "node-1"


def test_a_consul_with_nothing_in_it_is_told_of_the_cluster_again(
    packages: Packages, server: mysql_nodes.Node, server_directory: Path
) -> None:
    """The record, the lock, the node's session and its services: everything that Consul had of it."""
    with servers.consul_server(packages, server_directory / "first", address=ADDRESS):
        node = Node(server.settings)
        assert wait_for(lambda: is_primary(node), 20.0)
        before = node.discovery.view().record
        assert before is not None
    with servers.consul_server(packages, server_directory / "second", address=ADDRESS):
        assert sessions(node) == []
        assert node.discovery.view().record is None
        assert wait_for(lambda: is_primary(node), 20.0)
        seen = node.discovery.view()
        assert seen.record is not None
        assert (seen.record.id, seen.record.epoch) == (before.id, before.epoch)
        assert seen.record.version > before.version
        assert {(one.service, one.passing) for one in seen.instances} == {("primary", True), ("node", True)}


def test_a_server_that_does_not_answer_keeps_no_session(node: Node, mysqld: Process) -> None:
    """Neither renewed nor made is one before MySQL has answered: it would keep the lock for a dead primary."""
    assert wait_for(lambda: is_primary(node), 20.0)
    with node.local() as conn:
        node.discovery.destroy_session()
        mysqld.freeze()
        try:
            with pytest.raises(Unhealthy):
                health.run(node, None)
            assert sessions(node) == [], "before it was connected to the server"
            with pytest.raises(ServerUnreachable):
                health.check(node, conn)
            assert sessions(node) == [], "before the server had answered"
        finally:
            mysqld.thaw()
    assert wait_for(lambda: is_primary(node), 20.0)


def test_a_primary_that_was_replaced_is_closed_and_stays_closed(
    node: Node, server: mysql_nodes.Node, tmp_path: Path
) -> None:
    """It comes back with no lock and an older epoch than the record's: closed, and only to be read once it follows."""
    assert wait_for(lambda: is_primary(node), 20.0)
    environ: dict[str, Any] = {"CONSUL": ADDRESS, "CONSUL_CLIENT_ADDRESS": ADDRESS}
    other = consul_nodes.make_node("mysql", tmp_path, node="node-2", address=OTHER, **environ)
    seen = node.discovery.view()
    assert seen.record is not None
    promoted = seen.record.promoted("another server", "node-2", "test")
    session = Discovery(other.settings).ensure_session()
    node.discovery.promote(promoted, seen.record_index, session, unlock_session=seen.lock_session)
    assert server.state().serves
    for _ in range(2):
        assert health.run(node, None) != 0
        assert server.state().closed
        assert node.discovery.view().lock_session == session
    server.kill()
    server.start()
    node.discovery.destroy_session()
    other.discovery.destroy_session()
    for _ in range(2):
        assert health.run(node, None) != 0
        assert server.state().closed, "although PRIMARY_KEY is free"
    assert node.discovery.view().lock_session is None
