"""Semi-synchronous durability: members come and go, the primary is replaced, and no acknowledged row is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import marked
from sandbox.cluster import Cluster
from sandbox.packages import Packages
from sandbox.writer import Writer
from tests.integration.clusters import (
    LONG,
    converged,
    goes_on,
    manage,
    never,
    open_nodes,
    roles,
    running,
    server_pid,
    the_record,
    until,
)

pytestmark = [pytest.mark.failover, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    with running(packages, "semisync", "127.0.68", nodes=3, env={"DURABILITY": "semisync"}) as made:
        yield made


def settled(cluster: Cluster) -> None:
    converged(cluster, 2)
    until(lambda: len(the_record(cluster)["members"]) == 2, LONG, lambda: f"members: {the_record(cluster)}")


def test_two_replicas_are_admitted(cluster: Cluster) -> None:
    settled(cluster)
    record = the_record(cluster)
    assert record["durability"] == "semisync"
    assert record["primary"] not in record["members"]


def test_one_of_two_members_is_lost_and_comes_back(cluster: Cluster, client: Writer) -> None:
    _, (one, _) = roles(cluster)
    one.kill()
    until(lambda: len(the_record(cluster)["members"]) == 1, LONG, "the lost member is not removed")
    goes_on(client)
    one.start()


def test_the_last_member_is_lost_and_the_primary_goes_alone(cluster: Cluster, client: Writer) -> None:
    _, replicas = roles(cluster)
    for replica in replicas:
        replica.kill()
    until(lambda: the_record(cluster)["members"] == [], LONG, "the primary does not go alone")
    goes_on(client)
    for replica in replicas:
        replica.start()


def test_mysqld_of_the_primary_is_killed(cluster: Cluster, client: Writer) -> None:
    primary, _ = roles(cluster)
    os.kill(server_pid(primary), signal.SIGKILL)
    goes_on(client)


def test_the_primarys_node_is_killed(cluster: Cluster, client: Writer) -> None:
    primary, _ = roles(cluster)
    epoch = the_record(cluster)["epoch"]
    primary.kill()
    until(lambda: the_record(cluster)["epoch"] > epoch, LONG, "nobody is promoted")
    goes_on(client)
    primary.start()


def test_switchover_to_a_node_restarts_no_mysqld(
    cluster: Cluster, client: Writer, packages: Packages
) -> None:
    primary, (_, wanted) = roles(cluster)
    servers = {node.name: server_pid(node) for node in cluster.nodes}
    done = manage(packages, primary.env, "switchover", "--to", wanted.name)
    assert done.code == 0, done
    assert f"mysql-{wanted.name} is the primary" in done.out
    goes_on(client)
    assert the_record(cluster)["primary_name"] == wanted.name
    assert {node.name: server_pid(node) for node in cluster.nodes} == servers, "a mysqld was restarted"


def test_a_primary_whose_hand_over_died_is_killed_and_not_shut_down(cluster: Cluster, client: Writer) -> None:
    primary, _ = roles(cluster)
    before = len(primary.logs())
    words = ("pilot.py", "handover")
    (hand_over,) = (
        pid
        for pid in marked.processes(primary.directory)
        if [Path(word).name for word in marked.command_line(str(pid))][-2:] == list(words)
    )
    os.kill(hand_over, signal.SIGSTOP)
    os.kill(int((primary.directory / "run" / "supervisord.pid").read_text()), signal.SIGTERM)
    time.sleep(0.5)
    os.kill(hand_over, signal.SIGKILL)
    goes_on(client)
    until(lambda: not primary.running, LONG, "the node does not stop")
    assert "Shutdown complete" not in primary.logs()[before:]
    primary.start()


def test_a_clean_stop_hands_over_first(cluster: Cluster, client: Writer) -> None:
    primary, _ = roles(cluster)
    before = len(primary.logs())
    primary.stop()
    assert "Shutdown complete" in primary.logs()[before:]
    assert "is being stopped" in the_record(cluster)["history"][-1]
    assert the_record(cluster)["primary_name"] != primary.name
    goes_on(client)
    primary.start()


def test_paused_nothing_fails_over(cluster: Cluster, packages: Packages) -> None:
    settled(cluster)
    primary, (other, _) = roles(cluster)
    epoch = the_record(cluster)["epoch"]
    assert manage(packages, other.env, "pause", "a test").code == 0
    try:
        primary.kill()
        never(lambda: the_record(cluster)["epoch"] > epoch, 12.0, "failed over while paused")
        assert primary.name not in open_nodes(cluster)
        told = manage(packages, other.env, "failover", "--dry-run")
        assert told.out.startswith("nothing: paused: by mysql-"), told
    finally:
        assert manage(packages, other.env, "resume").code == 0
    until(lambda: the_record(cluster)["epoch"] > epoch, LONG, "nobody is promoted after resume")
    primary.start()
    settled(cluster)


def test_what_cannot_be_done_is_said_in_one_line(cluster: Cluster, packages: Packages) -> None:
    primary, _ = roles(cluster)
    assert (
        "is the primary already"
        in manage(packages, primary.env, "switchover", "--to", primary.name).lines[-1]
    )
    assert "node-9" in manage(packages, primary.env, "switchover", "--to", "node-9").lines[-1]
    assert "use switchover" in manage(packages, primary.env, "failover", "--force").lines[-1]
