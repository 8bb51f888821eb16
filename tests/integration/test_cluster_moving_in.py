"""Data that comes from somewhere else: the original project's keys and backups, another server (127.0.112)."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from manager.gtid import LAST_NUMBER, GtidSet
from manager.settings import load
from manager.storage import Store, open_store
from sandbox import servers
from sandbox.cluster import DATABASE, Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from sandbox.servers import Mysql
from tests.commands import shell
from tests.documents import claimed, replaced, the_block
from tests.integration.clusters import (
    LONG,
    ask,
    converged,
    manage,
    record,
    roles,
    running,
    same_rows,
    shown,
    the_record,
    until,
    write,
)

pytestmark = [pytest.mark.failover, pytest.mark.timeout(600)]

OLD = "127.0.112.90"
OPTIONS = ("--server-id=90", "--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--log-bin=binlog")
BACKUP = "mysql-backup-2016-11-05T02-00-00Z"
ORIGINAL = {
    "mysql-primary": "mysql-1a2b3c4d5e6f",
    "mysql-last-backup": f'{{"id": "{BACKUP}", "dt": "2016-11-05T02:00:00.000000Z"}}',
    "mysql-last-binlog": "mysql-bin.000002",
    "mysql-backup-running": "mysql-1a2b3c4d5e6f",
}


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    """The original's keys are in Consul, one of its backups in S3; in async a failover asks where GTIDs are from."""
    with running(packages, "moving", "127.0.112", env={"DURABILITY": "async"}) as made:
        for key, value in ORIGINAL.items():
            put(made, key, value)
        store(made).put_bytes(BACKUP, b"a tar file of innobackupex")
        yield made


@pytest.fixture(scope="module")
def old(cluster: Cluster, packages: Packages, module_directory: Path) -> Iterator[Mysql]:
    """A server of nobody's cluster, that goes on after the first node's data directory was copied from it."""
    with servers.mysqld(packages, module_directory, address=OLD, options=OPTIONS) as server:
        run(server, f"CREATE DATABASE {DATABASE}", f"CREATE TABLE {DATABASE}.t (n INT PRIMARY KEY)")
        run(server, f"INSERT INTO {DATABASE}.t VALUES (1)", "CREATE USER mover@'%' IDENTIFIED BY 'secret'")
        run(server, "GRANT REPLICATION SLAVE ON *.* TO mover@'%'")
    node = cluster.directory / "node-1"
    node.mkdir()
    subprocess.run(["cp", "-a", str(module_directory / "data"), str(node / "data")], check=True)
    (node / "data" / "auto.cnf").unlink()
    with servers.mysqld(packages, module_directory, address=OLD, options=OPTIONS) as server:
        yield server


def put(cluster: Cluster, key: str, value: str) -> None:
    url = f"http://{cluster.consul_address}:8500/v1/kv/{key}"
    with urllib.request.urlopen(urllib.request.Request(url, value.encode(), method="PUT"), timeout=5.0):
        pass


def store(cluster: Cluster) -> Store:
    return open_store(load({**cluster.env, "NODE_NAME": "client", "NODE_ADDRESS": "127.0.0.1"}))


def run(server: Mysql, *statements: str) -> list[dict[str, Any]]:
    """Run statements as root of the old server, and return the rows of the last."""
    with (
        pymysql.connect(
            unix_socket=str(server.socket),
            user="root",
            autocommit=True,
            cursorclass=pymysql.cursors.DictCursor,
        ) as conn,
        conn.cursor() as cursor,
    ):
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


def on_primary(node: Node, text: str) -> list[list[dict[str, Any]]]:
    """Run the statements of a documented block, but for its comments."""
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return [node.mysql(each) for each in " ".join(lines).split(";") if each.strip()]


def channel(node: Node) -> list[dict[str, Any]] | None:
    return ask(node, "SHOW REPLICA STATUS FOR CHANNEL 'moving_in'")


def stopped(node: Node) -> bool:
    """Its channel is there, and does not run."""
    return [(each["Replica_IO_Running"], each["Replica_SQL_Running"]) for each in channel(node) or []] == [
        ("No", "No")
    ]


def test_the_original_projects_keys_and_backups(cluster: Cluster, old: Mysql) -> None:
    """They keep a cluster from being founded until a person has removed them; nothing else becomes of them."""
    documented = the_block(__file__, "test_the_original_projects_keys_and_backups")
    node = cluster.add_node()
    until(
        lambda: (
            "is the original project's, which is not read here" in str(shown(cluster, node.name).get("note"))
        ),
        LONG,
        lambda: f"{shown(cluster, node.name)}",
    )
    assert record(cluster) is None
    assert {key: (cluster.catalogue.key(key) or b"").decode() for key in ORIGINAL} == ORIGINAL
    assert manage(node.packages, node.env, "snapshots").out.strip() == "there is no snapshot"
    refused = manage(
        node.packages, node.env, "restore", "--snapshot", BACKUP, "--datadir", f"{node.directory}/new"
    )
    assert "was never completed, or is none of ours" in refused.lines[-1]

    environment = {**node.env, "CONSUL_HTTP_ADDR": f"{cluster.consul_address}:8500"}
    shell(documented.text, env=environment, cwd=cluster.directory)
    kept = (cluster.directory / "original-keys.txt").read_text()
    assert all(f"{key}:{value}" in kept for key, value in ORIGINAL.items())
    assert converged(cluster, 0)["origin"] == "adopted"
    until(lambda: cluster.catalogue.key("mysql-last-backup"), LONG, "no snapshot of its own")
    assert json.loads(cluster.catalogue.key("mysql-last-backup") or b"")["id"] != BACKUP
    assert store(cluster).get_bytes(BACKUP) == b"a tar file of innobackupex"


@pytest.mark.feature("moving in", server="9.7")
def test_a_cluster_replicates_from_another_server_until_the_cut_over(cluster: Cluster, old: Mysql) -> None:
    follow, cut_over = claimed(__file__, "test_a_cluster_replicates_from_another_server_until_the_cut_over")
    begin = replaced(follow.text, [("old.example.com", OLD)])
    first = cluster.node("node-1")
    run(old, f"INSERT INTO {DATABASE}.t VALUES (2)")
    on_primary(first, begin)
    second = cluster.add_node()
    converged(cluster, 1)
    same_rows(cluster, "t", {1, 2})
    theirs = str(run(old, "SELECT @@server_uuid AS uuid")[0]["uuid"])

    def named() -> GtidSet:
        return GtidSet.parse(the_record(cluster)["base"]).of_sources({theirs})

    everything = GtidSet.parse(f"{theirs}:1-{LAST_NUMBER}")
    until(lambda: named() == everything, LONG, lambda: f"{the_record(cluster)}")
    refused = cluster.manage("switchover", "--to", second.name)
    assert f"{first.name} replicates by the channel moving_in: stop that first" in refused.stderr
    # A replica has all from the primary: one that is started there does not go on.
    on_primary(second, begin)
    until(lambda: "and nothing by the channel moving_in" in second.logs(), LONG, second.logs)
    until(lambda: stopped(second), LONG, lambda: f"{channel(second)}")
    converged(cluster, 1)

    first.kill()
    assert cluster.wait_primary(LONG, other_than=first.name).node == second.name
    run(old, f"INSERT INTO {DATABASE}.t VALUES (3)")
    on_primary(second, begin)
    first.start()
    converged(cluster, 1)
    same_rows(cluster, "t", {1, 2, 3})
    assert stopped(first)  # what it had as the primary it has still

    # A node that is being stopped gets no more, and what it has the next primary has, too.
    until(
        lambda: f"would promote: {first.name}" in cluster.manage("failover", "--dry-run").stdout,
        LONG,
        lambda: cluster.manage("failover", "--dry-run").stdout,
    )
    second.stop()
    assert the_record(cluster)["reason"] == f"mysql-{second.name} is being stopped"
    run(old, f"INSERT INTO {DATABASE}.t VALUES (10)")
    second.start()
    converged(cluster, 1)
    assert stopped(second)
    on_primary(first, begin)
    same_rows(cluster, "t", {1, 2, 3, 10})

    run(old, f"INSERT INTO {DATABASE}.t VALUES (4)")
    there, here = cut_over.text.split("-- on the primary")
    statements = [line for line in there.splitlines() if line and not line.startswith("--")]
    has = run(old, *statements)[0]["@@global.gtid_executed"]
    waited = on_primary(
        first, replaced("-- on the primary" + here, [("GTID_EXECUTED", has.replace("\n", ""))])
    )
    assert list(waited[0][0].values()) == [0]
    assert channel(first) in (None, [])
    # What the old server would commit from now on is none of the cluster's.
    until(lambda: named() == GtidSet.parse(has), LONG, lambda: f"{the_record(cluster)}")
    write(cluster, f"INSERT INTO {DATABASE}.t VALUES (5)")
    same_rows(cluster, "t", {1, 2, 3, 4, 5, 10})
    done = cluster.manage("switchover", "--to", second.name)
    assert done.returncode == 0, done.stderr
    converged(cluster, 1)


def test_a_record_of_a_newer_format(cluster: Cluster) -> None:
    """What it is said to be by an older program; the cluster goes on without it, as without Consul."""
    primary, _ = roles(cluster)
    newer = {**the_record(cluster), "format": 2, "unheard_of": True}
    put(cluster, "mysql-cluster", json.dumps(newer))
    line = "the cluster's record has format 2; this version reads up to 1, use a newer one"
    status = cluster.manage("status")
    assert status.returncode == 1
    assert line in status.stderr
    health = manage(primary.packages, {**primary.env, "LOG_LEVEL": "DEBUG"}, "health")
    assert any(line in said for said in health.lines), health.lines
    fresh = cluster.add_node()
    until(lambda: line in fresh.logs(), LONG, fresh.logs)
    assert the_record(cluster)["unheard_of"], "it was replaced"
