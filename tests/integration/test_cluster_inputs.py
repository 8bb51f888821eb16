"""Bad input and foreseeable faults: one clear line each, the right exit code, and nothing broken by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest

from sandbox import servers
from sandbox.cluster import Cluster
from sandbox.packages import Packages
from sandbox.processes import stop_here
from tests.integration.clusters import LONG, Ran, converged, manage, record, running, until

pytestmark = pytest.mark.timeout(600)

NOBODY = "127.0.66.99"
ROOT = 'root\'s "own" \\ password'


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    """Consul and S3; nodes come later."""
    with running(packages, "inputs", "127.0.66", env={"SNAPSHOT_INTERVAL": "2"}) as made:
        yield made


@dataclass(frozen=True)
class Alone:
    """A node without a pilot, whose hooks are run by the test."""

    cluster: Cluster
    directory: Path

    @property
    def datadir(self) -> Path:
        return self.directory / "data"

    def run(self, *arguments: str, **changes: str | None) -> Ran:
        """Run a hook with some settings changed; None takes one away."""
        env: dict[str, str | None] = {
            **self.cluster.env,
            "NODE_NAME": "alone",
            "NODE_ADDRESS": "127.0.66.90",
            "CONSUL_AGENT": "no",
            "MYSQL_DATADIR": str(self.datadir),
            "RUN_DIR": str(self.directory / "run"),
            "MYSQL_CONF": str(self.directory / "my.cnf"),
            "MYSQL_CONF_DIR": str(self.directory / "conf.d"),
            "SCRATCH_DIR": str(self.directory / "scratch"),
            **changes,
        }
        given = {name: value for name, value in env.items() if value is not None}
        return manage(self.cluster.packages, given, *arguments)


@pytest.fixture(scope="module")
def alone(cluster: Cluster) -> Alone:
    directory = cluster.directory / "alone"
    (directory / "conf.d").mkdir(parents=True)
    options = [option.removeprefix("--") for option in servers.mysql_options(cluster.packages)]
    (directory / "conf.d" / "server.cnf").write_text("\n".join(["[mysqld]", *options, ""]))
    return Alone(cluster, directory)


def test_an_unknown_command(alone: Alone) -> None:
    ran = alone.run("frobnicate")
    assert ran.code == 2
    assert ran.lines[0].startswith("usage: manage.py")
    assert "frobnicate" in ran.lines[-1]
    assert len(ran.lines) == 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"BACKUP_TTL": "abc"}, ("BACKUP_TTL", "abc")),
        ({"BACKUP_DRIVER": "nope"}, ("BACKUP_DRIVER", "nope")),
        ({"MYSQL_REPL_PASSWORD": None}, ("MYSQL_REPL_PASSWORD", "MYSQL_REPL_USER")),
    ],
)
@pytest.mark.parametrize("command", ["pre_start", "health", "snapshot_task"])
def test_wrong_settings(
    alone: Alone, command: str, changes: dict[str, str | None], named: tuple[str, ...]
) -> None:
    ran = alone.run(command, **changes)
    assert ran.code == 2
    line = ran.one_line()
    assert all(name in line for name in named), line


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "a-wrong-secret"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_BUCKET": "not-there"}, "AWS_BUCKET=not-there"),
        ({"AWS_ENDPOINT_URL": f"http://{NOBODY}:8333"}, "AWS_ENDPOINT_URL"),
    ],
)
def test_founding_waits_for_a_store_that_does_not_answer(
    alone: Alone, changes: dict[str, str | None], named: str
) -> None:
    ran = alone.run("pre_start", **changes)
    assert ran.code == 1
    assert named in ran.one_line()
    assert "a-wrong-secret" not in ran.one_line()
    assert list(alone.datadir.iterdir()) == [], "something was left in the data directory"
    assert record(alone.cluster) is None


def test_nothing_of_this_is_in_the_way_of_a_later_start(alone: Alone) -> None:
    ran = alone.run("pre_start")
    assert ran.code == 0, ran.lines
    assert (alone.datadir / "mysql").is_dir()
    facts = json.loads((alone.datadir / ".autopilot.json").read_text())
    assert (facts["origin"], facts["ready"], facts["may_found"]) == ("initialised", False, True)
    assert not (alone.datadir / ".autopilot-building").exists()


def test_status_without_consul(alone: Alone) -> None:
    ran = alone.run("status", CONSUL=NOBODY)
    assert ran.code == 1
    assert f"Consul at {NOBODY}:8500 cannot be reached" in ran.one_line()
    assert not ran.out


# --- A database that was there before -------------------------------------------------------------


ACCOUNTS = ("mysql.user", "mysql.db", "mysql.tables_priv", "mysql.global_grants", "mysql.default_roles")


def as_root(socket: Path, password: str = ROOT) -> pymysql.Connection[Any]:
    return pymysql.connect(
        unix_socket=str(socket),
        user="root",
        password=password.encode(),
        autocommit=True,
        read_timeout=30,
        cursorclass=pymysql.cursors.DictCursor,
    )


def rows(conn: pymysql.Connection[Any], sql: str) -> list[dict[str, Any]]:
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def contents(conn: pymysql.Connection[Any]) -> dict[str, Any]:
    """Everything in a server that is somebody's: accounts and rights, databases, definitions, rows."""
    found: dict[str, Any] = {}
    for table in ACCOUNTS:
        for row in rows(conn, f"SELECT * FROM {table}"):
            found.setdefault(table, []).append(sorted((name.lower(), str(row[name])) for name in row))
    for row in rows(conn, "SELECT SCHEMA_NAME AS name FROM information_schema.SCHEMATA"):
        found.setdefault("databases", []).append(row["name"])
    for row in rows(
        conn, "SELECT EVENT_SCHEMA AS db, EVENT_NAME AS name, STATUS AS s FROM information_schema.EVENTS"
    ):
        found.setdefault("events", []).append(f"{row['db']}.{row['name']} {row['s']}")
    found["definition"] = rows(conn, "SHOW CREATE TABLE shop.orders")
    found["rows"] = rows(conn, "SELECT * FROM shop.orders ORDER BY id")
    return found


@pytest.fixture(scope="module")
def before(cluster: Cluster) -> dict[str, Any]:
    """What was in a database that a plain server made, before it became node-1's."""
    plain = cluster.directory / "plain"
    with servers.mysqld(cluster.packages, plain, address="127.0.66.91") as server:
        with as_root(server.socket, "") as conn:
            for statement in (
                "CREATE DATABASE shop",
                "CREATE TABLE shop.orders (id INT PRIMARY KEY, what VARCHAR(99)) COMMENT 'from before'",
                "INSERT INTO shop.orders VALUES (1, 'tea'), (2, 'coffee')",
                "CREATE EVENT shop.purge ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.orders WHERE id > 1000",
                "CREATE USER shop@'%' IDENTIFIED BY 'the shop''s password'",
                "GRANT SELECT, INSERT ON shop.* TO shop@'%'",
                # The name of MYSQL_USER, with another password: it is left alone as well.
                "CREATE USER app@'%' IDENTIFIED BY 'another password'",
            ):
                rows(conn, statement)
            rows(conn, f"ALTER USER root@localhost IDENTIFIED BY {conn.escape(ROOT)}")
        with as_root(server.socket) as conn:
            found = contents(conn)
    node = cluster.directory / "node-1"
    node.mkdir()
    subprocess.run(["cp", "-a", str(plain / "data"), str(node / "data")], check=True)
    return found


def test_an_adopted_database_founds_a_cluster_and_is_not_changed(
    cluster: Cluster, before: dict[str, Any]
) -> None:
    node = cluster.add_node()
    assert cluster.wait_primary(LONG).node == node.name
    found = converged(cluster, replicas=0)
    assert found["origin"] == "adopted"
    with as_root(node.socket) as conn:
        after = contents(conn)
    assert after["definition"] == before["definition"]
    assert after["rows"] == before["rows"]
    assert set(after["databases"]) - set(before["databases"]) == {"autopilot", "app"}
    assert set(after["events"]) - set(before["events"]) == {"autopilot.watchdog ENABLED"}
    for table in ACCOUNTS:
        old, new = before.get(table, []), after.get(table, [])
        assert [row for row in old if row not in new] == [], f"{table}: rows were changed or are gone"
        added = {(dict(row)["user"], dict(row)["host"]) for row in new if row not in old}
        assert added <= {("autopilot", "localhost"), ("repl", "%")}, f"{table}: {added}"
    assert "GENERATED ROOT PASSWORD" not in node.logs()


def test_who_joins_an_adopted_database_restores_a_snapshot_of_it(
    cluster: Cluster, before: dict[str, Any]
) -> None:
    node = cluster.add_node()
    converged(cluster, replicas=1)
    facts = json.loads((node.directory / "data" / ".autopilot.json").read_text())
    assert facts["origin"] == "restored"
    assert node.mysql("SELECT * FROM shop.orders ORDER BY id") == before["rows"]


def test_a_node_whose_consul_is_away_and_whose_server_hangs(cluster: Cluster) -> None:
    """Its pilot is dead, and with it the agent that its hooks talk to; mysqld is run by the test."""
    node = cluster.node("node-2")
    node.kill()
    packages, env = cluster.packages, node.env
    status = manage(packages, env, "status")
    assert status.code == 1
    assert f"Consul at {node.address}:8500 cannot be reached" in status.one_line()

    start = manage(packages, env, "pre_start")
    assert start.code == 0, start.lines
    assert not [line for line in start.lines if "Traceback" in line]

    command = [str(packages.mysql_bindir / "mysqld"), f"--defaults-file={node.directory / 'my.cnf'}"]
    with servers.running_mysqld(command, node.directory / "by-hand.log", node.socket) as process:
        health = manage(packages, env, "health")
        assert health.code == 1
        assert "Consul" in health.one_line()

        process.freeze()
        try:
            hangs = manage(packages, env, "health")
        finally:
            process.thaw()
        assert hangs.code in (1, 2)
        assert "the local server" in hangs.one_line()
        assert hangs.seconds < 6.0, "health has 4 s (and Python some time to start)"

        twice = manage(packages, env, "pre_start")
        assert twice.code == 1
        assert "mysqld is running" in twice.one_line()
    node.start()
    converged(cluster, replicas=1)


def test_a_frozen_server_is_seen_by_its_own_pilot(cluster: Cluster) -> None:
    """The `-node` check turns critical, the role goes, and everything is back when the server goes on."""
    node = cluster.node("node-2")
    pid = int((node.directory / "run" / "mysqld.pid").read_text())
    stop_here(pid)
    try:
        service = f"{cluster.service_name}-node"
        until(
            lambda: [one.node for one in cluster.catalogue.passing(service)] == ["node-1"],
            LONG,
            "Consul does not see that the server hangs",
        )
        until(lambda: not cluster.catalogue.replicas, LONG, "a hanging replica is still shown as healthy")
    finally:
        os.kill(pid, signal.SIGCONT)
    converged(cluster, replicas=1)
