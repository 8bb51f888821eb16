"""A primary that was killed comes back without the commits that nobody acknowledged (subnet 127.0.69)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pymysql
import pytest

from manager.gtid import GtidSet
from sandbox.cluster import DATABASE, Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from sandbox.writer import TABLE, Writer
from tests.integration.clusters import (
    LONG,
    converged,
    local,
    look,
    rows_of,
    running,
    same_rows,
    server_pid,
    the_record,
    until,
    writer,
)
from tests.integration.comebacks import comeback, decoded, roles, the_saved

pytestmark = [pytest.mark.failover, pytest.mark.timeout(1200)]
SUBNET = "127.0.69"


@pytest.fixture
def semisync(packages: Packages) -> Iterator[Cluster]:
    """Three nodes, two of them members."""
    with running(packages, "comeback-trim", SUBNET, nodes=3, env={"DURABILITY": "semisync"}) as one:
        converged(one, replicas=2)
        until(
            lambda: len(the_record(one)["members"]) == 2, LONG, lambda: f"not two members: {the_record(one)}"
        )
        yield one


@contextlib.contextmanager
def cut_off(nodes: list[Node]) -> Iterator[None]:
    """Stop what these replicas receive; their guards are held, so that nobody starts it again."""
    with contextlib.ExitStack() as stack:
        for node in nodes:
            connection = stack.enter_context(contextlib.closing(local(node)))
            cursor = connection.cursor()
            # A guard that looks old would be taken away; this one was taken in the future.
            cursor.execute("SET @autopilot_guard = CAST(UTC_TIMESTAMP(6) + INTERVAL 1 HOUR AS CHAR)")
            cursor.execute("SELECT GET_LOCK('autopilot', 10) AS got")
            assert cursor.fetchone()["got"] == 1
            cursor.execute("STOP REPLICA IO_THREAD")
        yield


def commits_that_wait(cluster: Cluster, primary: Node, numbers: range) -> list[threading.Thread]:
    """Clients whose rows nobody will acknowledge."""

    def insert(number: int) -> None:
        with (
            contextlib.suppress(pymysql.MySQLError, OSError),
            pymysql.connect(
                host=primary.address,
                user="app",
                password=cluster.secrets["MYSQL_PASSWORD"],
                database=DATABASE,
                autocommit=True,
                connect_timeout=20,
                read_timeout=60,
            ) as conn,
        ):
            conn.cursor().execute(f"INSERT INTO {TABLE} VALUES (%s, UTC_TIMESTAMP(6))", (number,))

    clients = [threading.Thread(target=insert, args=(number,)) for number in numbers]
    for client in clients:
        client.start()
    return clients


def test_a_killed_primary_is_trimmed_and_follows(semisync: Cluster) -> None:
    cluster = semisync
    load_made = writer(cluster)
    load_made.start()
    until(lambda: len(load_made.history.acknowledged) > 30, LONG, "nothing is acknowledged")
    old, others = roles(cluster)
    server = look(old)
    assert server is not None
    pid = server_pid(old)
    with cut_off(others):
        clients = commits_that_wait(cluster, old, range(10_000_001, 10_000_009))
        # The eight, and the writer's own.
        until(lambda: waiting(old) >= 9, 20.0, lambda: f"only {waiting(old)} commits wait", interval=0.05)
        os.kill(pid, signal.SIGKILL)
    for client in clients:
        client.join(LONG)
    cluster.wait_primary(LONG, other_than=old.name)
    converged(cluster, replicas=2)
    until(lambda: comeback(old) is None, LONG, lambda: f"the return does not end: {comeback(old)}")
    load_made.stop()
    description, text, _ = the_saved(old, server.uuid)
    extra = GtidSet.parse(description["extra"])
    gtids, numbers = decoded(text)
    assert description["way"] == "trim", "it was rebuilt instead"
    assert gtids == extra
    assert set(range(10_000_001, 10_000_009)) <= numbers
    complete(cluster, load_made)
    after = look(old)
    assert after is not None
    assert after.uuid != server.uuid
    assert not extra & after.executed


def waiting(node: Node) -> int:
    """How many sessions are in a commit."""
    rows = node.mysql(
        "SELECT COUNT(*) AS n FROM information_schema.PROCESSLIST"
        " WHERE STATE LIKE 'Waiting for semi-sync ACK%' OR STATE = 'waiting for handler commit'"
    )
    return int(rows[0]["n"])


def complete(cluster: Cluster, load_made: Writer) -> None:
    """Every acknowledged row is on every node, and none that was never written."""
    primary, _ = roles(cluster)
    rows = rows_of(primary, TABLE)
    mine = {number for number in rows if number < 10_000_000}
    assert not load_made.history.missing(rows)
    assert not load_made.history.unexpected(mine)
    assert mine == rows, "a commit that nobody acknowledged came back"
    same_rows(cluster, TABLE, rows)
