"""The users' first-start scripts: once, on the node that founds, and whole or not at all, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from sandbox.cluster import DATABASE, Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from tests.integration.clusters import LONG, converged, look, never, record, running, until

pytestmark = pytest.mark.timeout(600)

TABLE = "CREATE TABLE seen (n INT AUTO_INCREMENT PRIMARY KEY, script VARCHAR(32));\n"
INSERT = "INSERT INTO seen (script) VALUES ('{}');\n"


@pytest.fixture
def cluster(packages: Packages) -> Iterator[Cluster]:
    """A Consul that knows nothing, no node yet, and a directory for scripts that all nodes share."""
    with running(packages, "first-start", "127.0.74") as made:
        scripts(made).mkdir()
        yield made


def scripts(cluster: Cluster) -> Path:
    return cluster.directory / "initdb.d"


def put_waiting_script(cluster: Cluster, name: str = "20-waits.sh") -> Path:
    """A script that makes a row, and then waits for the file that is returned."""
    go = cluster.directory / "go"
    (scripts(cluster) / name).write_text(
        f'mysql --user=autopilot {DATABASE} -e "{INSERT.format(name).strip()}"\n'
        f"until [ -e {go} ]; do sleep 0.1; done\n"
    )
    return go


def seen(node: Node) -> list[str] | None:
    """The scripts that have left a row on this node, in the order in which they ran."""
    with contextlib.suppress(pymysql.MySQLError, OSError):
        return [row["script"] for row in node.mysql(f"SELECT script FROM {DATABASE}.seen ORDER BY n")]
    return None


def runner(node: Node) -> int:
    """The process that runs the scripts."""
    return int(json.loads((node.directory / "run" / "first_start.json").read_text())["group"])


def waits(node: Node, *expected: str) -> None:
    """Wait until these scripts have left their rows."""
    until(lambda: seen(node) == list(expected), LONG, lambda: f"{node.name} has {seen(node)}")


def test_they_run_once_in_order_and_reach_every_node(cluster: Cluster) -> None:
    place = scripts(cluster)
    (place / "10-schema.sql").write_text(TABLE + INSERT.format("10"))
    (place / "20-rows.sql.gz").write_bytes(gzip.compress(INSERT.format("20").encode()))
    (place / "30-shell.sh").write_text(
        f'mysql --user=autopilot {DATABASE} -e "{INSERT.format("30").strip()}"\n'
    )
    own = place / "40-own-interpreter.sh"
    words = ["mysql", "--user=autopilot", DATABASE, "-e", INSERT.format("40").strip()]
    own.write_text(f"#!/usr/bin/env python3\nimport subprocess\nsubprocess.run({words}, check=True)\n")
    own.chmod(0o755)
    (place / "50-procedure.sql").write_text(
        "DELIMITER //\nCREATE PROCEDURE again() BEGIN INSERT INTO seen (script) VALUES ('50'); END//\n"
        "DELIMITER ;\nCALL again();\n"
    )
    (place / "README").write_text("nothing to run\n")
    for _ in range(3):
        cluster.add_node()
    found = converged(cluster, replicas=2)
    expected = ["10", "20", "30", "40", "50"]
    for node in cluster.nodes:
        waits(node, *expected)
    assert found["epoch"] == 1
    founder = cluster.node(found["primary_name"])
    assert "README is none of .sql, .sql.gz, .sh: left out" in founder.logs()
    founder.stop()
    until(lambda: cluster.catalogue.primary is not None, LONG, "no primary after the founder's stop")
    founder.start()
    converged(cluster, replicas=2)
    assert [seen(node) for node in cluster.nodes] == [expected] * 3


@pytest.mark.long
def test_the_server_is_closed_while_they_run(cluster: Cluster) -> None:
    (scripts(cluster) / "10-schema.sql").write_text(TABLE)
    go = put_waiting_script(cluster)
    first, second = cluster.add_node(), cluster.add_node()
    until(lambda: any(seen(node) for node in (first, second)), LONG, "no node runs the scripts")
    # For longer than a session lives without being renewed, and than a watchdog's lease.
    never(lambda: cluster.catalogue.primary, 25.0, "a primary before its scripts have run")
    found = record(cluster)
    assert found is not None
    assert found["state"] == "founding"
    founder = cluster.node(found["primary_name"])
    server = look(founder)
    assert server is not None
    assert server.offline
    assert "founds the cluster: running 20-waits.sh" in cluster.status()
    go.touch()
    converged(cluster, replicas=1)
    waits(first, "20-waits.sh")
    waits(second, "20-waits.sh")


@pytest.mark.parametrize("victim", [pytest.param("runner", marks=pytest.mark.long), "mysqld"])
def test_what_was_cut_off_begins_anew_with_an_empty_database(cluster: Cluster, victim: str) -> None:
    (scripts(cluster) / "10-schema.sql").write_text(TABLE + INSERT.format("10"))
    go = put_waiting_script(cluster)
    node = cluster.add_node()
    waits(node, "10", "20-waits.sh")
    before = look(node)
    assert before is not None
    if victim == "runner":
        os.kill(runner(node), signal.SIGKILL)
    else:
        os.kill(int((node.directory / "run" / "mysqld.pid").read_text()), signal.SIGKILL)
    # The script that is left of a killed runner ends first; the one of a killed mysqld is ended.
    if victim == "runner":
        never(
            lambda: (now := look(node)) is None or now.uuid != before.uuid, 5.0, "began anew beside a script"
        )
        go.touch()
    until(lambda: (now := look(node)) is not None and now.uuid != before.uuid, LONG, "did not begin anew")
    go.touch()
    converged(cluster, replicas=0)
    assert seen(node) == ["10", "20-waits.sh"]


def test_one_that_fails_is_named_and_can_be_mended(cluster: Cluster) -> None:
    (scripts(cluster) / "10-schema.sql").write_text(TABLE + INSERT.format("10"))
    bad = scripts(cluster) / "20-account.sql"
    bad.write_text("SELECT 1;\nCREATE USER reader IDENTIFID BY 'hush-hush';\n")
    node = cluster.add_node()
    reason = "first-start script 20-account.sql has failed: ERROR 1064 (42000) at line 2"
    until(lambda: reason in cluster.status(), LONG, lambda: f"not said: {cluster.status()}")
    assert "Mend it and restart this node" in cluster.status()
    never(lambda: cluster.catalogue.primary, 3.0, "a primary although a script has failed")
    assert "20-account.sql: ERROR 1064 (42000) at line 2: syntax error" in node.logs()
    assert "hush" not in node.logs() + cluster.status("--json")
    bad.write_text("CREATE USER reader IDENTIFIED BY 'hush-hush';\n")
    node.stop()
    node.start()
    converged(cluster, replicas=0)
    assert seen(node) == ["10"]
    assert node.mysql("SELECT 1 AS found FROM mysql.user WHERE User = 'reader'") == [{"found": 1}]


@pytest.mark.long
def test_a_damaged_archive_is_no_success(cluster: Cluster) -> None:
    whole = gzip.compress((TABLE + INSERT.format("10") * 20_000).encode())
    (scripts(cluster) / "10-rows.sql.gz").write_bytes(whole[: len(whole) // 2])
    cluster.add_node()
    reason = "first-start script 10-rows.sql.gz cannot be read"
    until(lambda: reason in cluster.status(), LONG, lambda: f"not said: {cluster.status()}")
    never(lambda: cluster.catalogue.primary, 3.0, "a primary although half of a script is missing")


@pytest.mark.long
def test_another_node_founds_when_the_founder_dies_meanwhile(cluster: Cluster) -> None:
    (scripts(cluster) / "10-schema.sql").write_text(TABLE)
    go = put_waiting_script(cluster)
    first = cluster.add_node()
    waits(first, "20-waits.sh")
    second = cluster.add_node()
    first.kill()
    waits(second, "20-waits.sh")
    first.start()
    go.touch()
    found = converged(cluster, replicas=1)
    assert found["primary_name"] == second.name
    waits(first, "20-waits.sh")
    waits(second, "20-waits.sh")
