"""A cluster whose snapshots go to Manta (addresses 127.0.92.x): one node takes one, the next begins with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.cluster import DATABASE, Cluster
from sandbox.packages import Packages
from tests.integration.clusters import LONG, converged, running, until, write
from tests.integration.manta_server import MantaServer, manta
from tests.integration.manta_stores import BUCKET, account, environment, private_key, text

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MantaServer]:
    with manta(tmp_path / "manta") as running_server:
        account(running_server)
        yield running_server


@pytest.fixture
def cluster(packages: Packages, server: MantaServer) -> Iterator[Cluster]:
    """One node whose key is that of a user with a role, in OpenSSH format and as `_env` has it."""
    key = text(private_key("rsa", 2), "openssh").replace("\n", "#")
    user = {"MANTA_SUBUSER": "backup", "MANTA_ROLE": "writer", "MANTA_PRIVATE_KEY": key}
    manta_env = environment(server, **user)
    env = {name: value for name, value in manta_env.items() if not name.startswith("NODE_")}
    with running(packages, "manta", "127.0.92", nodes=1, env={**env, "SNAPSHOT_INTERVAL": "2"}) as made:
        yield made


def test_a_new_node_begins_with_a_snapshot_from_manta(cluster: Cluster, server: MantaServer) -> None:
    cluster.wait_primary(LONG)
    write(cluster, "CREATE TABLE t (n INT PRIMARY KEY)")
    write(cluster, "INSERT INTO t VALUES (1), (2), (3)")
    last = f"{cluster.service_name}-last-backup"
    until(lambda: cluster.catalogue.key(last) is not None, LONG, "no snapshot was recorded")
    name = json.loads(cluster.catalogue.key(last) or "{}")["id"]
    assert server.objects() == [f"{BUCKET}/{name}", f"{BUCKET}/{name}.manifest.json"]

    node = cluster.add_node()
    converged(cluster, replicas=1)
    facts = json.loads((node.directory / "data" / ".autopilot.json").read_text())
    assert facts["origin"] == "restored"
    assert [row["n"] for row in node.mysql(f"SELECT n FROM {DATABASE}.t ORDER BY n")] == [1, 2, 3]
    assert ("GET", f"{BUCKET}/{name}") in [(method, path) for method, path, _ in server.requests]
    assert {headers.get("Role") for _, _, headers in server.requests} == {"writer"}
    for one in cluster.nodes:
        assert "PRIVATE KEY" not in one.logs()
