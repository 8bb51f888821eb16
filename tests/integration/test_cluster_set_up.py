"""A node whose `health` is killed again and again while it sets the server up (127.0.81)."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from sandbox import marked
from sandbox.cluster import Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from tests.integration.clusters import LONG, ask, converged, local, never, running, the_record, until, write

pytestmark = pytest.mark.timeout(600)

TIMES = 2
WAITING = "SELECT ID FROM information_schema.PROCESSLIST WHERE STATE = 'Waiting for backup lock'"


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    """A Consul that knows nothing, and no node yet."""
    with running(packages, "set-up", "127.0.81", env={"SNAPSHOT_INTERVAL": "3600"}) as made:
        yield made


def no_accounts_yet(node: Node) -> Any:
    """A connection that lets no account or database be made, as soon as the server answers, until it is closed."""
    holding: list[Any] = []

    def held() -> bool:
        with contextlib.suppress(pymysql.MySQLError, OSError):
            holding.append(local(node))
            with holding[-1].cursor() as cursor:
                cursor.execute("LOCK INSTANCE FOR BACKUP")
            return True
        return False

    until(held, LONG, f"the server of {node.name} does not answer", interval=0.02)
    return holding[-1]


def kill_health(node: Node) -> bool:
    """SIGKILL for the node's `health` runs; False if there was none."""
    found = [pid for pid in marked.processes(node.directory) if _is_health(pid)]
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


def _is_health(pid: int) -> bool:
    words = marked.command_line(pid)
    return any(word.endswith("manage.py") for word in words) and "health" in words


def test_a_health_run_that_is_killed_while_it_sets_up_leaves_nothing_in_the_way(cluster: Cluster) -> None:
    """Neither a lock of its own, nor half a set-up: the next run goes on, and the node becomes the primary."""
    node = cluster.add_node()
    with contextlib.closing(no_accounts_yet(node)):
        for _ in range(TIMES):
            until(lambda: ask(node, WAITING), LONG, "no health run sets the server up", interval=0.02)
            assert kill_health(node), "it was not health that set the server up"
            until(lambda: not ask(node, WAITING), LONG, "the server goes on for a dead health run")
        assert the_record(cluster)["state"] == "founding"
    found = converged(cluster, replicas=0)
    assert (found["primary_name"], found["epoch"]) == (node.name, 1)
    write(cluster, "CREATE TABLE kept (n INT PRIMARY KEY)")


def test_health_takes_no_snapshot(cluster: Cluster) -> None:
    """A full copy takes longer than a check may: it is a task of its own, whose interval has not come yet."""
    converged(cluster, replicas=0)
    key = f"{cluster.service_name}-last-backup"
    never(lambda: cluster.catalogue.key(key), 4.0, "health has taken a snapshot")
