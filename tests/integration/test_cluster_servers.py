"""Whole clusters of each MySQL server, through their life; what a server lacks is skipped (127.0.98)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from manager.snapshot.manifest import GOOD
from sandbox.cluster import DATABASE, Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from tests.integration.clusters import (
    LONG,
    Ran,
    converged,
    manage,
    never,
    roles,
    rows_of,
    running,
    same_rows,
    shown,
    the_record,
    until,
    write,
)
from tests.integration.dumped import write_programs

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

LACKING = re.compile(r"SNAPSHOT_ENGINE=\w+ cannot copy this server: (.*)")


@pytest.fixture(scope="module")
def started(each_mysql: Packages, module_directory: Path) -> Iterator[Cluster]:
    """Two nodes, which have mydumper, and a table with a row."""
    programs = module_directory / f"programs-{each_mysql.mysql.name}"
    write_programs(programs)
    path = (each_mysql.venv_bin, each_mysql.consul.parent, each_mysql.mysql_bindir, programs)
    # No pilot takes a snapshot between two looks of a test.
    env = {"PATH": ":".join([*map(str, path), os.environ["PATH"]]), "SNAPSHOT_INTERVAL": "3600"}
    with running(each_mysql, "servers", "127.0.98", nodes=2, env=env) as made:
        converged(made, replicas=1)
        write(made, f"CREATE TABLE {DATABASE}.t (n INT PRIMARY KEY AUTO_INCREMENT)")
        write(made, f"INSERT INTO {DATABASE}.t VALUES (1)")
        yield made


@pytest.fixture
def cluster(started: Cluster) -> Iterator[Cluster]:
    """It is whole before and after each test, and all nodes have the same rows."""
    whole(started)
    yield started
    whole(started)


def whole(cluster: Cluster) -> None:
    converged(cluster, replicas=len(cluster.nodes) - 1)
    same_rows(cluster, "t", rows_of(roles(cluster)[0], "t"))


def has(cluster: Cluster) -> dict[str, bool]:
    """What the primary's server has, as `status` shows it."""
    return dict(shown(cluster, the_record(cluster)["primary_name"])["capabilities"])


def run(node: Node, *words: str, **changes: str) -> Ran:
    return manage(node.packages, {**node.env, **changes}, *words)


def insert(cluster: Cluster) -> None:
    """One more row, acknowledged."""
    write(cluster, f"INSERT INTO {DATABASE}.t VALUES ()")


@pytest.mark.feature("founding and joining")
def test_a_founder_and_what_joins_it(cluster: Cluster) -> None:
    there, plugins = has(cluster), cluster.packages.mysql_plugins
    for name, files in (
        ("semisync", "semisync_*.so"),
        ("clone", "mysql_clone.so"),
        ("auth_socket", "auth_socket.so"),
    ):
        assert there[name] is bool(list(plugins.glob(files))), name
    assert the_record(cluster)["durability"] == ("semisync" if there["semisync"] else "async")
    assert ("lacks" in cluster.status()) is not all(there.values())


@pytest.mark.feature("semi-sync")
def test_a_commit_waits_for_a_member(cluster: Cluster) -> None:
    if not has(cluster)["semisync"]:
        pytest.skip("this build has no semi-sync plugins")
    _, (replica,) = roles(cluster)
    replica.freeze()
    with ThreadPoolExecutor() as pool:
        done = pool.submit(insert, cluster)
        try:
            # After 4 s the primary would begin to go on alone.
            never(done.done, 2.0, "acknowledged with nobody who has it")
        finally:
            replica.thaw()
        done.result(LONG)


@pytest.mark.feature("switchover")
def test_switchover(cluster: Cluster) -> None:
    primary, (replica,) = roles(cluster)
    before = rows_of(primary, "t")
    done = cluster.manage("switchover", "--to", replica.name, seconds=120.0)
    assert done.returncode == 0, done.stderr
    assert converged(cluster, replicas=1)["primary_name"] == replica.name
    insert(cluster)
    assert before < rows_of(replica, "t")


@pytest.mark.feature("failover")
@pytest.mark.feature("return of a failed primary")
def test_a_killed_primary_is_replaced_and_returns(cluster: Cluster) -> None:
    """Nothing is lost here in async either, since all had arrived."""
    primary, (replica,) = roles(cluster)
    before = rows_of(primary, "t")
    primary.kill()
    assert cluster.wait_primary(LONG, other_than=primary.name).node == replica.name
    until(lambda: rows_of(replica, "t") == before, LONG, "a row is missing after the failover")
    insert(cluster)
    primary.start()
    assert converged(cluster, replicas=1)["primary_name"] == replica.name
    same_rows(cluster, "t", rows_of(replica, "t"))


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("clone", marks=pytest.mark.feature("snapshot by clone, and a node from it")),
        pytest.param("mydumper", marks=pytest.mark.feature("snapshot by mydumper, and a node from it")),
    ],
)
def test_a_node_begins_with_a_snapshot(cluster: Cluster, engine: str) -> None:
    """Each server is copied by one of the two: by clone if it has it."""
    primary, _ = roles(cluster)
    done = run(primary, "snapshot", SNAPSHOT_ENGINE=engine)
    if refused := LACKING.search("\n".join(done.lines)):
        assert has(cluster)["clone"] is not (engine == "clone"), done.lines
        pytest.skip(refused[1])
    assert done.code == 0, done.lines
    newest = json.loads(run(primary, "snapshots", "--json").out)[0]
    assert (newest["engine"], newest["recorded"]) == (engine, True)
    insert(cluster)
    node = cluster.add_node()
    whole(cluster)
    facts = json.loads((node.directory / "data" / ".autopilot.json").read_text())
    assert (facts["origin"], facts["snapshot"]) == ("restored", newest["id"])
    cluster.remove_node(node.name)


@pytest.mark.feature("verified restore")
def test_a_snapshot_is_verified(cluster: Cluster) -> None:
    _, (replica,) = roles(cluster)
    done = run(replica, "snapshot")
    assert done.code == 0, done.lines
    done = run(replica, "verify")
    assert (done.code, done.out.strip().partition(": ")[2]) == (0, GOOD), done.lines
