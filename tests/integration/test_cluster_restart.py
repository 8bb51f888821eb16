"""Restarts of everything that a cluster consists of: it is the same cluster afterwards, with all of its rows."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from sandbox.cluster import DATABASE, Cluster
from sandbox.packages import Packages
from sandbox.servers import consul_ready
from tests.integration.clusters import (
    LONG,
    converged,
    kill_consul,
    open_nodes,
    record,
    running,
    same_rows,
    until,
    write,
)

ASYNC = {"DURABILITY": "async"}

# By serf's own reconnecting alone it takes up to 82 s (measured).
SOON = 25.0

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    with running(packages, "restart", "127.0.65", nodes=3, env=ASYNC) as made:
        yield made


@pytest.fixture(scope="module")
def kept(cluster: Cluster) -> set[int]:
    """The numbers in the table of that name, to which each test adds what it has written."""
    converged(cluster, replicas=2)
    numbers = set(range(1, 101))
    write(cluster, "CREATE TABLE kept (n INT PRIMARY KEY)")
    write(cluster, f"INSERT INTO kept VALUES {','.join(f'({n})' for n in numbers)}")
    return numbers


@pytest.mark.long
def test_every_node_restarted_one_by_one(cluster: Cluster, kept: set[int]) -> None:
    before = converged(cluster, replicas=2)
    for number, node in enumerate(cluster.nodes):
        node.stop()
        assert not node.running
        assert cluster.wait_primary(LONG).node != node.name, "Consul still shows a stopped node"
        kept.add(1000 + number)
        write(cluster, f"INSERT INTO kept VALUES ({1000 + number})")
        node.start()
        after = converged(cluster, replicas=2)
        assert after["id"] == before["id"]
        same_rows(cluster, "kept", kept)


def test_every_node_killed_and_started_at_once(cluster: Cluster, kept: set[int]) -> None:
    before = converged(cluster, replicas=2)
    write(cluster, "INSERT INTO kept VALUES (2000)")
    kept.add(2000)
    same_rows(cluster, "kept", kept)
    threads = [threading.Thread(target=node.kill) for node in cluster.nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(node.running for node in cluster.nodes)
    for node in cluster.nodes:
        node.start()
    after = converged(cluster, replicas=2)
    assert after["id"] == before["id"]
    assert after["epoch"] in (before["epoch"], before["epoch"] + 1)
    write(cluster, "INSERT INTO kept VALUES (2001)")
    kept.add(2001)
    same_rows(cluster, "kept", kept)


class Steady:
    """A client that knows the primary, and writes to it whatever Consul says."""

    def __init__(self, cluster: Cluster) -> None:
        primary = cluster.wait_primary(LONG)
        self.acknowledged: set[int] = set()
        self.errors: list[str] = []
        self._ended = threading.Event()
        self._connection: Any = pymysql.connect(
            host=primary.address,
            port=primary.port,
            user="app",
            password=cluster.secrets["MYSQL_PASSWORD"],
            database=DATABASE,
            autocommit=True,
            read_timeout=20,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 3000
        while not self._ended.wait(0.05):
            try:
                with self._connection.cursor() as cursor:
                    cursor.execute("INSERT INTO kept VALUES (%s)", (number,))
                self.acknowledged.add(number)
            except pymysql.MySQLError as error:
                self.errors.append(str(error))
                return
            number += 1

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(pymysql.MySQLError):
            self._connection.close()


def test_a_consul_that_comes_back_empty_is_told_again(cluster: Cluster, kept: set[int]) -> None:
    before = converged(cluster, replicas=2)
    client = Steady(cluster)
    opened: set[str] = set()

    def told_again() -> bool:
        opened.update(open_nodes(cluster))
        return record(cluster) is not None

    try:
        until(lambda: len(client.acknowledged) >= 20, LONG, "the client gets nothing written")
        kill_consul(cluster)
        shutil.rmtree(cluster.directory / "consul" / "data")
        count = len(client.acknowledged)
        until(
            lambda: len(client.acknowledged) >= count + 100 or client.errors,
            LONG,
            "writes stop without Consul",
        )
        assert not client.errors, "an async primary with all of its replicas attached goes on without Consul"
        cluster.start_consul()
        until(lambda: consul_ready(cluster.consul_address), LONG, "Consul does not start")
        until(
            told_again, SOON, "the agents do not find the new Consul, or nobody has written the record again"
        )
        after = converged(cluster, replicas=2)
        opened.update(open_nodes(cluster))
    finally:
        client.end()
    assert not client.errors, "writes were interrupted"
    assert opened == {before["primary_name"]}, "a second primary"
    assert (after["id"], after["epoch"], after["primary"]) == (
        before["id"],
        before["epoch"],
        before["primary"],
    )
    same_rows(cluster, "kept", kept | client.acknowledged)
