"""A node that has diverged comes back by itself, with nothing lost and nobody at the keyboard (subnet 127.0.73)."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pymysql
import pytest

from manager.comeback.state import Phase
from manager.errors import AutopilotError
from manager.gtid import GtidSet
from sandbox import marked
from sandbox.cluster import DATABASE, Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from tests.integration.clusters import (
    LONG,
    converged,
    look,
    rows_of,
    running,
    same_rows,
    shown,
    until,
    write,
)
from tests.integration.comebacks import comeback, decoded, roles, the_saved

pytestmark = [pytest.mark.failover, pytest.mark.timeout(1200)]
SUBNET = "127.0.73"


def the_table(cluster: Cluster) -> bool:
    with contextlib.suppress(pymysql.MySQLError, OSError, AssertionError):
        write(cluster, f"CREATE TABLE IF NOT EXISTS {DATABASE}.t (n BIGINT PRIMARY KEY)")
        return True
    return False


def leave_behind(cluster: Cluster, rows: set[int]) -> tuple[Node, GtidSet, str]:
    """Kill the primary when it alone has acknowledged `rows`, and let the others fail over.

    Returns the node, which is down, the transactions that it has beyond the new primary, and its server_uuid.
    """
    old, others = roles(cluster)
    same_rows(cluster, "t", rows_of(old, "t"))
    before = look(old)
    for node in others:
        node.kill()
    assert before is not None
    for number in sorted(rows):
        old.mysql(f"INSERT INTO {DATABASE}.t VALUES ({number})")
    after = look(old)
    assert after is not None
    old.kill()
    for node in others:
        node.start()
    cluster.wait_primary(LONG, other_than=old.name)
    return old, after.executed - before.executed, after.uuid


def back_as_a_replica(cluster: Cluster, node: Node, *, lost: set[int]) -> None:
    """Wait for the node to be healthy, with the primary's rows, and for its old files to be gone."""
    converged(cluster, replicas=2)
    write(cluster, f"INSERT INTO {DATABASE}.t SELECT COALESCE(MAX(n), 0) + 1 FROM {DATABASE}.t")
    primary, _ = roles(cluster)
    expected = rows_of(primary, "t")
    assert not lost & expected
    same_rows(cluster, "t", expected)
    until(lambda: comeback(node) is None, LONG, lambda: f"the return does not end: {comeback(node)}")
    assert not (node.directory / ".data-rebuild").exists()


def rescues(node: Node) -> set[int]:
    """The processes of the node's rescue."""
    return {pid for pid in marked.processes(node.directory) if marked.command_line(pid)[-1:] == ["rescue"]}


def kill_a_rescue_at(node: Node, phase: Phase) -> None:
    """SIGKILL a rescue as soon as it has written `phase`."""

    def killed() -> bool:
        with contextlib.suppress(AutopilotError, ProcessLookupError):
            found = comeback(node)
            if found is not None and found.phase is phase:
                for pid in rescues(node):
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    until(killed, LONG, lambda: f"no rescue to kill at {phase}: {comeback(node)}", interval=0.002)


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    """Three nodes without semi-sync; every test leaves them converged."""
    with running(packages, "comeback", SUBNET, nodes=3, env={"DURABILITY": "async"}) as one:
        until(lambda: the_table(one), LONG, "the table cannot be made")
        yield one


def test_saved_and_rebuilt_although_its_rescues_are_killed(cluster: Cluster) -> None:
    lost = {101, 102, 103}
    old, extra, uuid = leave_behind(cluster, lost)
    old.start()
    kill_a_rescue_at(old, Phase.SAVING)
    kill_a_rescue_at(old, Phase.SAVED)
    back_as_a_replica(cluster, old, lost=lost)
    server = look(old)
    assert server is not None
    assert server.uuid != uuid
    description, text, objects = the_saved(old, uuid)
    assert (description["extra"], description["way"]) == (str(extra), "rebuild")
    assert decoded(text) == (extra, lost)
    assert [name for name in objects if name.startswith("binlog.")] == [
        f["name"] for f in description["files"]
    ]


def test_while_the_store_is_away_it_stays_out_with_the_reason(cluster: Cluster) -> None:
    lost = {201}
    old, extra, uuid = leave_behind(cluster, lost)
    marked.kill(cluster.directory / "s3")
    old.start()

    def note() -> str:
        return str(shown(cluster, old.name).get("note", ""))

    until(lambda: "no S3 server answers" in note(), LONG, lambda: f"the reason is not shown: {note()!r}")
    assert "diverged: 1 transactions" in note()
    assert "stays out until they are saved to the store" in note()
    server = look(old)
    assert server is not None
    assert (server.uuid, server.offline) == (uuid, True)
    cluster.start_s3()
    back_as_a_replica(cluster, old, lost=lost)
    assert decoded(the_saved(old, uuid)[1]) == (extra, lost)


def test_without_auto_rebuild_it_is_saved_and_stays_out(cluster: Cluster) -> None:
    lost = {301, 302}
    old, extra, uuid = leave_behind(cluster, lost)
    careful = replace(old, shared_env={**old.shared_env, "AUTO_REBUILD": "no"})
    careful.start()
    until(
        lambda: "stays out: AUTO_REBUILD is no" in str(shown(cluster, old.name).get("note", "")),
        LONG,
        lambda: f"the reason is not shown: {shown(cluster, old.name)}",
    )
    assert decoded(the_saved(old, uuid)[1]) == (extra, lost)
    server = look(old)
    assert server is not None
    assert (server.uuid, server.offline) == (uuid, True)
    careful.stop()
    old.start()
    back_as_a_replica(cluster, old, lost=lost)
