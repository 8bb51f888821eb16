"""A failover when one server of two is left, and by a runner that is not the node that is promoted (127.0.118)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manager import failover
from manager.discovery.record import Record
from manager.mysql import operations
from manager.node import Node
from sandbox import servers
from sandbox.packages import Packages
from tests.integration import consul_nodes, mysql_nodes
from tests.integration.mysql_nodes import AWKWARD

CONSUL, SURVIVOR, ANOTHER, NOBODY = (f"127.0.118.{number}" for number in (1, 2, 3, 9))
ENVIRON = {
    "CONSUL": CONSUL,
    "CONSUL_AGENT": "1",
    "CONSUL_CLIENT_ADDRESS": CONSUL,
    "DURABILITY": "async",
}

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server(packages: Packages, module_directory: Path) -> Iterator[mysql_nodes.Node]:
    """The only server that is left: its accounts are there, and it is closed."""
    directory = module_directory / "node-2"
    made = mysql_nodes.Node(packages, directory, SURVIVOR, **ENVIRON, NODE_NAME="node-2")
    made.start()
    made.found()
    yield made
    if made.process is not None:
        made.process.kill()


@pytest.fixture
def record(server: mysql_nodes.Node) -> Record:
    """By this node-1, whose server is gone, is the primary; the survivor follows it, and has its row."""
    state = server.state()
    assert state.row is not None
    source = {"HOST": NOBODY, "PORT": 3306, "USER": "repl", "PASSWORD": AWKWARD, "AUTO_POSITION": 1}
    with server.local() as conn:
        operations.close_server(conn)
        conn.run(*server.words.change(source))
    begun = Record.founding(
        primary="another server",
        primary_name="node-1",
        origin="initialised",
        reason="test",
        base=str(state.executed),
        id="cluster",
    )
    return begun.opened().promoted("another server", "node-1", "test", after=state.row.epoch, at=1)


@pytest.mark.parametrize("runner", ["the survivor itself", "another node"])
def test_the_only_one_left_is_promoted_and_holds_the_lock(
    server: mysql_nodes.Node,
    record: Record,
    start_consul: Callable[..., servers.Consul],
    tmp_path: Path,
    runner: str,
) -> None:
    start_consul(CONSUL)
    login = {name: value for name, value in server.environ.items() if name.startswith("MYSQL_REPL")}
    nodes = {
        name: consul_nodes.make_node("mysql", tmp_path / name, node=name, address=address, **ENVIRON, **login)
        for name, address in (("node-2", SURVIVOR), ("node-3", ANOTHER))
    }
    survivor, another = Node(server.settings), Node(nodes["node-3"].settings)
    session, other = survivor.discovery.ensure_session(), another.discovery.ensure_session()
    another.discovery.touch(record, 0)

    node = survivor if runner == "the survivor itself" else another
    with node.discovery.failover_lock("test") as lock:
        outcome = failover.run(node, lock)
    assert outcome.promoted == "node-2", outcome.reason
    state, seen = server.state(), node.discovery.view()
    assert seen.record is not None
    assert (seen.record.primary, seen.record.epoch) == (state.server_uuid, record.epoch + 1)
    assert seen.lock_session == session != other
    assert seen.lock_holder is not None
    assert (seen.lock_holder.name, seen.lock_holder.address) == ("node-2", SURVIVOR)
    assert state.serves
