"""A snapshot under writers, and a new node that begins with it, with each engine and store (127.0.108)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import mysqls
from sandbox.cluster import DATABASE, Cluster
from sandbox.packages import Packages
from sandbox.writer import Writer
from tests.integration.clusters import LONG, converged, manage, running, until
from tests.integration.dumped import write_programs
from tests.integration.manta_server import manta
from tests.integration.manta_stores import account, environment

pytestmark = pytest.mark.timeout(600)

SUBNET = "127.0.108"
# `make snapshot-table` asks for all of them; each pair takes about half a minute.
SERVERS = os.environ.get("ROUND_TRIP_SERVERS", mysqls.DEFAULT_MYSQL).split()
STORES = os.environ.get("ROUND_TRIP_STORES", "s3").split()
PAIRS = [(server, store) for server in SERVERS for store in STORES]
WRITERS = 4


class NumberedWriter(Writer):
    """One that has a table of its own."""

    def __init__(self, number: int, cluster: Cluster) -> None:
        password = cluster.secrets["MYSQL_PASSWORD"]
        super().__init__(cluster.catalogue, user="app", password=password, database=DATABASE)
        self.table = f"t{number}"

    def tables(self) -> list[str]:
        return [f"CREATE TABLE {self.table} (n BIGINT PRIMARY KEY, content VARCHAR(200))"]

    def statement(self, number: int) -> tuple[str, tuple[object, ...]]:
        return f"INSERT INTO {self.table} VALUES (%s, REPEAT(%s, 20))", (number, number)


@pytest.fixture(params=PAIRS, ids="-".join)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """One node, with mydumper where nothing else can copy its server."""
    server, store = request.param
    packages = mysqls.chosen(server)
    with contextlib.ExitStack() as stack:
        env: dict[str, str] = {}
        if server != mysqls.DEFAULT_MYSQL:
            write_programs(tmp_path / "programs")
            path = (packages.venv_bin, packages.consul.parent, packages.mysql_bindir, tmp_path / "programs")
            env["PATH"] = ":".join([*map(str, path), os.environ["PATH"]])
        if store == "local":
            (tmp_path / "store").mkdir()
            env |= {"BACKUP_DRIVER": "local", "STORAGE_DIR": str(tmp_path / "store")}
        elif store == "manta":
            there = stack.enter_context(manta(tmp_path / "manta"))
            account(there)
            env |= {key: value for key, value in environment(there).items() if not key.startswith("NODE_")}
        yield stack.enter_context(running(packages, "round-trip", SUBNET, nodes=1, env=env))


def recorded(cluster: Cluster) -> str:
    """The snapshot that Consul names, or nothing."""
    return str(json.loads(cluster.catalogue.key(f"{cluster.service_name}-last-backup") or "{}").get("id", ""))


def test_a_new_node_begins_with_a_snapshot_under_writers(cluster: Cluster, packages: Packages) -> None:
    cluster.wait_primary(LONG)
    (first,) = cluster.nodes
    before = until(lambda: recorded(cluster), LONG, "the first snapshot is not taken")
    writers = [NumberedWriter(number, cluster) for number in range(WRITERS)]
    for writer in writers:
        writer.create_table()
        writer.start()
    going = lambda: all(len(one.history.acknowledged) > 50 for one in writers)  # noqa: E731
    until(going, LONG, "the writers do not get going")
    done = manage(packages, first.env, "snapshot")
    assert done.code == 0, done.lines
    snapshot = recorded(cluster)
    assert snapshot != before

    node = cluster.add_node()
    converged(cluster, replicas=1)
    for writer in writers:
        writer.stop()
    facts = json.loads((node.directory / "data" / ".autopilot.json").read_text())
    assert (facts["origin"], facts["snapshot"]) == ("restored", snapshot)
    engine = {
        row["id"]: row["engine"] for row in json.loads(manage(packages, first.env, "snapshots", "--json").out)
    }
    assert engine[snapshot] == ("clone" if first.packages.server == mysqls.DEFAULT_MYSQL else "mydumper")
    sums = "CHECKSUM TABLE " + ", ".join(f"{DATABASE}.{writer.table}" for writer in writers)
    until(
        lambda: node.mysql(sums) == first.mysql(sums),
        LONG,
        "the new node's rows are others than the primary's",
    )
    for writer in writers:
        present = {int(row["n"]) for row in node.mysql(f"SELECT n FROM {DATABASE}.{writer.table}")}
        assert writer.history.missing(present) == set()
        assert len(writer.history.acknowledged) > 50
