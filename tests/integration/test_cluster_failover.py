"""A cluster that loses its primary, in the ways in which that happens, one after the other on one cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pymysql
import pytest

from sandbox.cluster import DATABASE, Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from tests.integration.clusters import (
    LONG,
    converged,
    local,
    lock_session,
    look,
    never,
    not_converged,
    open_nodes,
    rows_of,
    running,
    same_rows,
    server_pid,
    shown,
    the_record,
    until,
    write,
    writer,
)

ASYNC = {"DURABILITY": "async"}

pytestmark = pytest.mark.timeout(600)

FROZEN = 30.0
WATCHED = 12.0
# After a thaw the watchdog closes the server in its next round, a fraction of a second; a busy machine is slower.
LEASE = 10.0


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    with running(packages, "failover", "127.0.64", nodes=3, env=ASYNC | {"AUTO_REBUILD": "no"}) as made:
        yield made


def others(cluster: Cluster, *names: str) -> list[Node]:
    return [node for node in cluster.nodes if node.name not in names]


def kept_out(cluster: Cluster, name: str) -> str:
    """The reason for which `status` says that a node has diverged; empty while it says nothing of the kind."""
    note = str(shown(cluster, name).get("note", ""))
    return note if "diverged" in note else ""


def replace(cluster: Cluster, name: str) -> None:
    """What a person does with a node that has diverged: a fresh one in its place."""
    cluster.remove_node(name)
    cluster.add_node()


def test_the_primary_killed_under_a_writer(cluster: Cluster) -> None:
    before = converged(cluster, replicas=2)
    client = writer(cluster)
    client.start()
    try:
        until(lambda: len(client.history.acknowledged) >= 100, LONG, "the writer gets nothing written")
        killed = cluster.node(before["primary_name"])
        killed.kill()
        at = time.monotonic()
        cluster.wait_primary(LONG, other_than=killed.name)
        until(lambda: client.history.gap(at), LONG, "nothing was acknowledged after the failover")
    finally:
        client.stop()
    after = the_record(cluster)
    assert (after["id"], after["epoch"]) == (before["id"], before["epoch"] + 1)
    assert after["primary_name"] != killed.name
    assert after["primaries"] == [before["primary"], after["primary"]]

    killed.start()
    until(
        lambda: not not_converged(cluster, 2) or kept_out(cluster, killed.name),
        LONG,
        lambda: not_converged(cluster, 2),
    )
    primary = cluster.node(after["primary_name"])
    history, present = client.history, rows_of(primary, "sandbox_rows")
    assert not history.unexpected(present), "rows that nobody wrote"
    if reason := kept_out(cluster, killed.name):
        # Async: what the old primary had acknowledged and not yet sent is on it alone.
        assert history.missing(present) <= rows_of(killed, "sandbox_rows")
        assert "transactions that" in reason
        replace(cluster, killed.name)
        converged(cluster, replicas=2)
    else:
        assert not history.missing(present), "acknowledged rows are gone, and no node has them"
    same_rows(cluster, "sandbox_rows", present)
    for node in others(cluster, primary.name):
        replica, now = look(node), look(primary)
        assert replica is not None
        assert now is not None
        assert replica.executed <= now.executed, f"{node.name} has transactions that the primary lacks"


def test_a_guard_that_nobody_gives_back_holds_up_no_failover(cluster: Cluster) -> None:
    before = converged(cluster, replicas=2)
    killed, replica = cluster.node(before["primary_name"]), others(cluster, before["primary_name"])[0]
    held = local(replica)
    try:
        with held.cursor() as cursor:
            cursor.execute(
                "SELECT GET_LOCK('autopilot', 5), SLEEP(6)"
            )  # as a runner that was frozen in its work
        killed.kill()
        cluster.wait_primary(LONG, other_than=killed.name)
    finally:
        held.close()
    killed.start()
    converged(cluster, replicas=2)


def test_only_mysqld_of_the_primary_killed(cluster: Cluster) -> None:
    before = converged(cluster, replicas=2)
    write(cluster, "CREATE TABLE steps (n INT PRIMARY KEY)")
    write(cluster, "INSERT INTO steps VALUES (1)")
    same_rows(cluster, "steps", {1})
    killed = cluster.node(before["primary_name"])
    pid = server_pid(killed)
    os.kill(pid, signal.SIGKILL)
    until(
        lambda: killed.socket.exists() and look(killed) is not None and server_pid(killed) != pid,
        LONG,
        "mysqld does not come back",
    )
    after = converged(cluster, replicas=2)
    assert after["id"] == before["id"]
    # Whoever was first has won: the respawned server on its own epoch, or another one on the next.
    kept = after["primary_name"] == killed.name and after["epoch"] == before["epoch"]
    assert kept or after["epoch"] == before["epoch"] + 1, f"before {before}, after {after}"
    write(cluster, "INSERT INTO steps VALUES (2)")
    same_rows(cluster, "steps", {1, 2})


def test_a_thawed_primary_does_not_open_on_its_old_epoch(cluster: Cluster) -> None:
    before = converged(cluster, replicas=2)
    old = cluster.node(before["primary_name"])
    old.freeze()
    frozen_at = time.monotonic()
    second = cluster.node(cluster.wait_primary(LONG, other_than=old.name).node)
    after = the_record(cluster)
    assert (after["epoch"], after["primary_name"]) == (before["epoch"] + 1, second.name)
    (third,) = others(cluster, old.name, second.name)
    # The old primary is behind now: were it to open again, it would lack this row.
    write(cluster, "INSERT INTO steps VALUES (3)")
    until(lambda: 3 in rows_of(third, "steps"), LONG, f"{third.name} does not follow {second.name}")
    until(lambda: time.monotonic() - frozen_at >= FROZEN, FROZEN + 1.0, "time stands still")

    third.freeze()
    second.kill()
    until(lambda: lock_session(cluster) is None, LONG, f"PRIMARY_KEY is not free after {second.name}'s death")
    old.thaw()
    until(lambda: not is_open(old), LEASE, f"{old.name} is still open on its old lease", interval=0.02)
    never(lambda: is_open(old), WATCHED, f"{old.name} opened again on its old epoch", interval=0.05)
    assert look(old) is not None, f"{old.name} does not answer: nothing was seen"
    still = the_record(cluster)
    assert (still["epoch"], still["primary"]) == (after["epoch"], after["primary"])
    assert lock_session(cluster) is None, f"{old.name} has taken PRIMARY_KEY"

    third.thaw()
    second.start()
    last = converged(cluster, replicas=2)
    assert last["id"] == before["id"]
    assert last["epoch"] >= after["epoch"]
    same_rows(cluster, "steps", {1, 2, 3})


def is_open(node: Node) -> bool:
    """True if an application could write there; a server that does not answer within a second is not."""
    server = look(node, 1.0)
    return server is not None and server.open


def test_a_replica_with_an_errant_transaction_stays_out(cluster: Cluster) -> None:
    converged(cluster, replicas=2)
    primary = the_record(cluster)["primary_name"]
    replica = others(cluster, primary)[0]
    with local(replica) as conn, conn.cursor() as cursor:
        cursor.execute("SET GLOBAL super_read_only = 0")
        cursor.execute(f"INSERT INTO {DATABASE}.steps VALUES (1000)")
        cursor.execute("SET GLOBAL super_read_only = 1")
    replica.stop()
    replica.start()

    reason = until(lambda: kept_out(cluster, replica.name), LONG, lambda: f"{shown(cluster, replica.name)}")
    server = look(replica)
    assert server is not None
    assert "diverged: 1 transactions" in reason
    assert f"{server.uuid}:" in reason, "the transaction is not named"
    assert "diverged" in cluster.status(), "the table does not show it"
    assert shown(cluster, replica.name)["errant"] == 1
    write(cluster, "INSERT INTO steps VALUES (4)")
    never(
        lambda: replica.name in [one.node for one in cluster.catalogue.replicas] or is_open(replica),
        4.0,
        "a diverged node serves",
    )
    assert rows_of(replica, "steps") == {1, 2, 3, 1000}, "its data was touched"
    assert the_record(cluster)["primary_name"] == primary
    cluster.remove_node(replica.name)
    converged(cluster, replicas=1)


def test_the_only_survivor_of_two_takes_over(cluster: Cluster) -> None:
    before = converged(cluster, replicas=1)
    assert len(cluster.nodes) == 2
    killed = cluster.node(before["primary_name"])
    (survivor,) = others(cluster, killed.name)
    same_rows(cluster, "steps", {1, 2, 3, 4})
    killed.kill()
    assert cluster.wait_primary(LONG, other_than=killed.name).node == survivor.name
    after = converged(cluster, replicas=0)
    assert (after["epoch"], after["primary_name"]) == (before["epoch"] + 1, survivor.name)
    write(cluster, "INSERT INTO steps VALUES (5)")
    assert open_nodes(cluster) == [survivor.name]
    with pytest.raises(pymysql.MySQLError):
        local(killed)
