"""Parts of a node that fail alone: its way to Consul, its pilot, its logins (root only; subnet 198.18.208)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pymysql
import pytest

from faults.world import is_pilot
from manager import failover
from manager.node import Node as Hooks
from manager.settings import load
from sandbox import marked
from sandbox.cluster import Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from sandbox.processes import stop_here
from sandbox.writer import Writer
from tests.integration.clusters import (
    LONG,
    converged,
    goes_on,
    local,
    lock_session,
    look,
    never,
    not_serving,
    open_nodes,
    roles,
    running,
    server_pid,
    the_record,
    until,
)

pytestmark = [
    pytest.mark.failover,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.getuid() != 0, reason="network namespaces need root"),
]

HOLDOFF = 50.0
# A change of role is told to the server by then. While that does not answer, an agent that has something to tell
# runs no checks until it gives up (measured: more than 20 s).
TOLD = 7.0


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    env = {"DURABILITY": "semisync", "FAILOVER_HOLDOFF": f"{HOLDOFF:.0f}"}
    with running(packages, "cut-off", "198.18.208", nodes=3, namespaces=True, env=env) as made:
        yield made


@contextlib.contextmanager
def without_consul(cluster: Cluster, node: Node) -> Iterator[None]:
    """The node and the Consul server do not reach each other; everybody else reaches both."""
    network = cluster.network
    assert network is not None
    network.drop(node.name, incoming=[cluster.consul_address], outgoing=[cluster.consul_address])
    try:
        yield
    finally:
        network.heal(node.name, node.address)


@pytest.mark.long
def test_a_replica_without_consul_goes_on_replicating(cluster: Cluster, client: Writer) -> None:
    primary, (one, _) = roles(cluster)
    before = the_record(cluster)
    time.sleep(TOLD)
    begin = time.monotonic()
    with without_consul(cluster, one):
        never(lambda: not_serving(one, primary.address), 25.0, "it does not follow any more", 1.0)
    after = the_record(cluster)
    assert (after["epoch"], after["members"]) == (before["epoch"], before["members"])
    assert (client.history.gap(begin) or 0.0) < 2.0


@pytest.mark.long
def test_a_primary_without_consul_serves_until_the_holdoff_is_over(cluster: Cluster, client: Writer) -> None:
    """It loses its key, and goes on while a member follows it; its lease over, it is handed over, not before."""
    _, (wanted, _) = roles(cluster)
    # It may have to make a Consul session first.
    until(lambda: cluster.manage("switchover", "--to", wanted.name).returncode == 0, LONG, "no switchover")
    promoted = time.monotonic()
    converged(cluster, 2)
    time.sleep(TOLD)
    epoch = the_record(cluster)["epoch"]
    with without_consul(cluster, wanted):
        until(lambda: lock_session(cluster) is None, LONG, "it keeps its key")
        never(
            lambda: the_record(cluster)["epoch"] > epoch or open_nodes(cluster) != [wanted.name],
            HOLDOFF - (time.monotonic() - promoted) - 2.0,
            "it does not serve alone any more",
        )
        until(lambda: the_record(cluster)["epoch"] > epoch, LONG, "it is not handed over")
        assert "has not taken PRIMARY_KEY" in the_record(cluster)["history"][-1]
        goes_on(client)
    assert open_nodes(cluster) != [wanted.name]


def test_a_runner_that_died_after_the_promotion(cluster: Cluster) -> None:
    """The chosen node's own hooks are frozen, so another runner finishes the opening."""
    converged(cluster, 2)
    _, (chosen, _) = roles(cluster)
    server = look(chosen)
    assert server is not None
    network = cluster.network
    assert network is not None
    hooks = Hooks(
        load(
            cluster.env
            | {"NODE_NAME": "client", "NODE_ADDRESS": network.here, "CONSUL_AGENT": "no"}
            | {"RUN_DIR": str(cluster.directory / "client")}
        )
    )
    # Consul ends the session of a node whose agent is frozen after some 3 s: the runner begins at once.
    with hooks.discovery.failover_lock("a test") as lock:
        view = hooks.discovery.view()
        assert view.record is not None
        marked.send(chosen.directory, signal.SIGSTOP, is_pilot)
        try:
            hooks.discovery.promote(
                view.record.promoted(server.uuid, chosen.name, "a test"),
                view.record_index,
                view.sessions[chosen.name],
                unlock_session=view.lock_session,
            )
            outcome = failover.run(hooks, lock)
        finally:
            marked.send(chosen.directory, signal.SIGCONT, is_pilot)
    assert (outcome.promoted, outcome.reason) == (chosen.name, "opened; it had been promoted already")
    until(lambda: open_nodes(cluster) == [chosen.name], LONG, "it is not alone", 0.05)
    converged(cluster, 2)


def restarted(node: Node, pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return server_pid(node) != pid
    return False


def test_a_primary_that_lets_nobody_in_is_killed_by_its_own_node(cluster: Cluster, client: Writer) -> None:
    """An account statement that waits for an acknowledgement blocks every login (measured)."""
    primary, replicas = roles(cluster)
    pid, epoch = server_pid(primary), the_record(cluster)["epoch"]
    frozen = [server_pid(node) for node in replicas]

    def block() -> None:
        with contextlib.suppress(pymysql.MySQLError), local(primary, 30.0) as conn, conn.cursor() as cursor:
            cursor.execute("ALTER USER app@'%' COMMENT 'waits for an acknowledgement'")

    blocking = threading.Thread(target=block)
    for one in frozen:
        stop_here(one)
    try:
        blocking.start()
        until(lambda: "killing mysqld" in primary.logs(), LONG, "it is not killed")
        until(lambda: restarted(primary, pid), LONG, "it does not come back")
        assert the_record(cluster)["epoch"] == epoch
    finally:
        for one in frozen:
            os.kill(one, signal.SIGCONT)
        blocking.join()
    goes_on(client)
