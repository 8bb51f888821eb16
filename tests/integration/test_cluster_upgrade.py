"""From 5.6 over 5.7 and 8.0 to 9.7 in one cluster, under four writers (127.0.111); `make upgrade`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import mysqls
from sandbox.cluster import DATABASE, Cluster
from sandbox.node import Node
from sandbox.packages import ROOT, Packages
from sandbox.writer import Writer
from tests.documents import replaced, the_block
from tests.integration import dumped
from tests.integration.clusters import (
    LONG,
    converged,
    failover_step,
    goes_on,
    look,
    manage,
    roles,
    running,
    shown,
    the_record,
    until,
    writer,
)

pytestmark = [pytest.mark.upgrade, pytest.mark.timeout(900)]

NAME, SUBNET = "upgrade", "127.0.111"
APART = 10_000_000
SETTLED = 3.0
GAP = 1.0  # seconds without an acknowledged row, for each switchover


@contextlib.contextmanager
def cluster_of(server: str) -> Iterator[Cluster]:
    """A cluster without nodes whose hooks find mydumper; its server is of the series `server`."""
    packages = mysqls.chosen(server)
    programs = Path(f"/tmp/autopilot-test-{NAME}-{os.getuid()}") / "programs"
    path = [programs, packages.venv_bin, packages.consul.parent, "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    env = {"PATH": ":".join(map(str, path)), "LOG_LEVEL": "DEBUG"}
    with running(packages, NAME, SUBNET, env=env) as made:
        dumped.write_programs(programs)
        yield made


@contextlib.contextmanager
def four_writers(cluster: Cluster) -> Iterator[list[Writer]]:
    """At work until the block ends; then every node holds what was acknowledged, and nothing else."""
    first = writer(cluster)
    others = [
        Writer(
            cluster.catalogue,
            user="app",
            password=cluster.secrets["MYSQL_PASSWORD"],
            database=DATABASE,
            pause=0.02,
            first=number * APART,
        )
        for number in range(1, 4)
    ]
    writers = [first, *others]
    for one in writers:
        one.start()
    for one in writers:
        until(lambda one=one: len(one.history.acknowledged) > 10, LONG, "a writer does not get going")
    yield writers
    for one in writers:
        one.stop()


def check_rows(cluster: Cluster, writers: list[Writer]) -> None:
    """Every healthy node has all that was acknowledged until now, and nothing that failed or was not written."""
    acknowledged = {number for one in writers for number in list(one.history.acknowledged)}
    primary = cluster.catalogue.primary
    assert primary is not None
    for endpoint in (primary, *cluster.catalogue.replicas):
        until(
            lambda endpoint=endpoint: acknowledged <= writers[0].read(endpoint),
            LONG,
            f"acknowledged rows are missing on {endpoint}",
        )
        present = writers[0].read(endpoint)
        for one in writers:
            assert not present & one.history.failed
        assert all(number < writers[number // APART].next for number in present)


def snapshot(cluster: Cluster) -> None:
    """Have one taken now, of what the primary is now: the next node starts with it."""
    primary, _ = roles(cluster)
    done = manage(primary.packages, primary.env, "snapshot")
    assert done.code == 0, done.lines


def add_node(cluster: Cluster, server: str, replicas: int) -> Node:
    """A node of another series joins, though it is killed in the middle of its restore."""
    node = cluster.add_node(server=server)
    until(lambda: "restoring snapshot" in node.logs(), LONG, node.logs, 0.05)
    time.sleep(1.0)
    node.kill()
    node.start()
    converged(cluster, replicas)
    return node


def as_a_client(cluster: Cluster) -> dict[str, str]:
    """The environment of somebody who is no node, and wants to know all that a hook says."""
    here = {"NODE_NAME": "client", "NODE_ADDRESS": "127.0.0.1", "CONSUL_AGENT": "no", "LOG_LEVEL": "DEBUG"}
    return {**cluster.env, **here, "RUN_DIR": str(cluster.directory / "client")}


def kill_a_runner(cluster: Cluster, to: str, step: str) -> None:
    """Begin a switchover, and kill it when it is at a step."""
    command = [str(cluster.packages.python), str(ROOT / "bin" / "manage.py"), "switchover", "--to", to]
    env, nowhere = as_a_client(cluster), subprocess.DEVNULL
    runner = subprocess.Popen(command, env=env, stdout=nowhere, stderr=nowhere)

    until(
        lambda: runner.poll() is not None or failover_step(cluster).startswith(step),
        LONG,
        f"the runner does not get to {step!r}",
        0.002,
    )
    assert runner.poll() is None, f"the runner has ended before {step!r}"
    runner.send_signal(signal.SIGKILL)
    runner.wait()


def hand_over(cluster: Cluster, writers: list[Writer], to: str) -> tuple[float, str]:
    """Make a node of the newer series the primary; the longest that one of the writers had to wait, in seconds, and
    what the runner said meanwhile.

    A first runner is killed when it has closed the primary. While the cluster is paused that opens again by itself.
    """
    before = the_record(cluster)["primary_name"]
    assert cluster.manage("pause", "a runner is killed").returncode == 0
    kill_a_runner(cluster, to, "freezing")
    for one in writers:
        goes_on(one)
    assert the_record(cluster)["primary_name"] == before
    assert cluster.manage("resume").returncode == 0
    # The dead runner's lock lasts as long as its session; when it goes each node looks at itself, which takes its time.
    until(lambda: not failover_step(cluster), LONG, "the dead runner's lock is never free")
    time.sleep(SETTLED)
    converged(cluster, 2)

    begin = time.monotonic()
    done = manage(cluster.packages, as_a_client(cluster), "switchover", "--to", to)
    assert done.code == 0, done.lines
    for one in writers:
        until(lambda one=one: one.history.gap(begin), LONG, "a writer is not acknowledged again")
    time.sleep(1.0)
    return max(one.history.gap(begin) or 0.0 for one in writers), "\n".join(done.lines)


def refused_in_place(cluster: Cluster, replica: Node, server: str) -> None:
    """None of these servers takes over the data of the one before: the node says so, and leaves them as they are."""
    replica.stop()
    newer = cluster.change_server(replica.name, server)
    newer.start()
    why = "without 8.4 in between" if server == "9.7" else "without mysql_upgrade"
    until(lambda: f"MySQL {server} cannot take over a data directory of" in newer.logs(), LONG, newer.logs)
    assert why in newer.logs()
    newer.kill()


def step(cluster: Cluster, writers: list[Writer], server: str) -> tuple[float, str]:
    """The whole cluster of two becomes one of a newer series; returns what `hand_over` does."""
    primary, (replica,) = roles(cluster)
    old = mysqls.version(primary.packages)
    snapshot(cluster)
    first = add_node(cluster, server, 2)
    refused = cluster.manage("switchover", "--to", first.name)
    assert refused.returncode == 1
    assert f"cannot be followed by {replica.name} (MySQL {old[0]}.{old[1]})" in refused.stderr
    # Of the two that are as far; while it is written to, one or the other is.
    until(
        lambda: f"would promote: {replica.name}" in cluster.manage("failover", "--dry-run").stdout,
        LONG,
        lambda: cluster.manage("failover", "--dry-run").stdout,
    )
    refused_in_place(cluster, replica, server)
    cluster.remove_node(replica.name)
    second = add_node(cluster, server, 2)

    measured = hand_over(cluster, writers, first.name)
    until(
        lambda: (
            f"MySQL {old[0]}.{old[1]} cannot follow {server}" in str(shown(cluster, primary.name).get("note"))
        ),
        LONG,
        lambda: f"{shown(cluster, primary.name)}",
    )
    assert the_record(cluster)["primary_name"] == first.name
    assert f"MySQL of 2 series: {old[0]}.{old[1]} (mysql-{primary.name})" in cluster.status()
    found = look(primary)
    assert found is not None
    assert not found.open
    cluster.remove_node(primary.name)
    converged(cluster, 1)
    check_rows(cluster, writers)
    assert second.running
    return measured


def convert_accounts(cluster: Cluster) -> None:
    """9.7 has no mysql_native_password: whoever logs in by it gets another plugin, on the primary."""
    primary, _ = roles(cluster)
    find, convert = the_block(__file__, "convert_accounts").lines
    secrets = {"app": cluster.secrets["MYSQL_PASSWORD"], "repl": cluster.secrets["MYSQL_REPL_PASSWORD"]}
    native = {(row["user"], row["host"]) for row in primary.mysql(find)}
    assert native == {("app", "%"), ("repl", "%"), ("root", "localhost")}
    for user, host in native:
        password = secrets.get(user, "another")
        primary.mysql(replaced(convert, [("'app'@'%'", f"'{user}'@'{host}'"), ("its password", password)]))
    assert not primary.mysql(find)


@pytest.mark.feature("rolling upgrade", server="5.6")
@pytest.mark.feature("rolling upgrade", server="5.7")
@pytest.mark.feature("rolling upgrade", server="8.0")
@pytest.mark.feature("rolling upgrade", server="9.7")
def test_the_path() -> None:
    gaps = {}
    with cluster_of("5.6") as cluster:
        for _ in range(2):
            cluster.add_node()
        converged(cluster, 1)
        with four_writers(cluster) as writers:
            for server in ("5.7", "8.0", "9.7"):
                if server == "9.7":
                    convert_accounts(cluster)
                gaps[server] = step(cluster, writers, server)
        check_rows(cluster, writers)
    print("seconds without an acknowledged row:", {server: gap for server, (gap, _) in gaps.items()})
    for server, (gap, said) in gaps.items():
        assert gap <= GAP, f"{gap:.2f} s before {server}:\n{said}"


def test_a_primary_is_not_started_with_a_server_that_its_replicas_cannot_follow(packages: Packages) -> None:
    """Another one becomes the primary, and then it is. A script stands for the newer server: it only says so."""
    with running(packages, NAME, SUBNET, nodes=2) as cluster:
        converged(cluster, 1)
        primary, (other,) = roles(cluster)
        # Else the failover may be over before its pre_start looks, and then there is nothing to refuse.
        assert cluster.manage("pause", "a newer server starts").returncode == 0
        primary.kill()
        newer = cluster.directory / "newer"
        newer.mkdir()
        for program in packages.mysql_bindir.iterdir():
            (newer / program.name).symlink_to(program)
        (newer / "mysqld").unlink()
        says = '[ "$1" = --version ] && exec echo "mysqld  Ver 10.0.0"'
        (newer / "mysqld").write_text(f'#!/bin/sh\n{says}\nexec {packages.mysql_bindir}/mysqld "$@"\n')
        (newer / "mysqld").chmod(0o755)
        replace(primary, shared_env={**primary.shared_env, "MYSQL_BINDIR": str(newer)}).start()
        until(
            lambda: (
                f"{primary.name} is MySQL 10.0, which cannot be followed by {other.name} (MySQL 9.7)"
                in primary.logs()
            ),
            LONG,
            primary.logs,
        )
        assert cluster.manage("resume").returncode == 0
        assert converged(cluster, 1)["primary_name"] == other.name
