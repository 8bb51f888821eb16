"""The documents' commands on the cluster that `make demo` leaves, in the order of what happens to it (127.0.85).

What differs from the text is said where a block is run: addresses, and a handler's path. `manage.py` runs with
the environment of a node, as in its container.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.cluster import Cluster
from sandbox.packages import Packages, program
from tests.commands import environment, on, shell, wrapper
from tests.documents import claimed, replaced, the_block
from tests.integration.clusters import (
    LONG,
    RUNNING,
    converged,
    lock_session,
    look,
    only_one,
    roles,
    rows_of,
    same_rows,
    the_record,
    until,
    write,
)

pytestmark = [pytest.mark.failover, pytest.mark.timeout(600)]

DIRECTORY = Path(f"/tmp/autopilot-test-documents-{os.getuid()}")
SUBNET = "127.0.85"
HOST = {**os.environ, "AUTOPILOT_SANDBOX": str(DIRECTORY), "AUTOPILOT_SUBNET": SUBNET}
HANDLER = "/usr/local/bin/reconnect.sh"


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    """The demo's four nodes."""
    with only_one(DIRECTORY.with_suffix(".lock")):
        Cluster(DIRECTORY, packages=packages).down()
        try:
            said = shell(the_block(__file__, "cluster").text, env=HOST, seconds=280)
            assert "rows acknowledged and missing                           0" in said
            made = Cluster.open(DIRECTORY)
            RUNNING.append(made)
            yield made
        finally:
            RUNNING[:] = [one for one in RUNNING if one.directory != DIRECTORY]
            Cluster(DIRECTORY, packages=packages).down()


@pytest.fixture(scope="module")
def programs(module_directory: Path) -> Path:
    """What a reader's host has, for PATH."""
    wrapper(module_directory / "programs", "dig", program("bind9-dnsutils", "usr/bin/dig"))
    wrapper(module_directory / "programs", "curl", program("curl", "usr/bin/curl"))
    return module_directory / "programs"


@pytest.fixture
def watcher(cluster: Cluster, module_directory: Path) -> Iterator[Path]:
    """An application's watch of the primary; the file to which its handler writes what it is told."""
    told, handler = module_directory / "told", module_directory / "reconnect.sh"
    told.touch()
    handler.write_text(f"#!/bin/sh\ncat >>{told}\n")
    handler.chmod(0o755)
    command = replaced(the_block(__file__, "watcher").text, [(HANDLER, str(handler))])
    watch = subprocess.Popen(shlex.split(command), env=environment(cluster.nodes[0]))
    yield told
    watch.kill()
    watch.wait()


def last_snapshot(cluster: Cluster) -> str:
    return str(json.loads(cluster.status("--json"))["last_snapshot"]["id"])


def members(cluster: Cluster) -> set[str]:
    return set(the_record(cluster)["members"])


def replicas(cluster: Cluster) -> set[str]:
    """The server_uuids of all nodes but the primary's."""
    return {server.uuid for node in roles(cluster)[1] if (server := look(node)) is not None}


def form(line: str) -> str:
    """A line of `status` without what differs from cluster to cluster."""
    line = line.partition(", hold-off")[0]
    return " ".join(re.sub(r"^cluster \S+|\d+", "*", line).split())


# --- While it lives -----------------------------------------------------------------------------


def test_the_demo_is_broken_and_mended(cluster: Cluster) -> None:
    said = shell(the_block(__file__, "test_the_demo_is_broken_and_mended").text, env=HOST)
    assert all(f"mysql-{node.name} " in said for node in cluster.nodes)
    converged(cluster, 3)
    # From here on there are three, and both replicas are members.
    cluster.remove_node(next(node.name for node in roles(cluster)[1] if node.name != "node-2"))
    until(lambda: members(cluster) == replicas(cluster), LONG, lambda: f"{the_record(cluster)}")
    converged(cluster, 2)


def test_the_primary_is_found(cluster: Cluster, programs: Path) -> None:
    readme, clients, sandbox = claimed(__file__, "test_the_primary_is_found")
    primary, (replica, *_) = roles(cluster)
    env = {**HOST, "PATH": f"{programs}:{HOST['PATH']}"}
    here = [("127.0.0.1", replica.address)]
    dig, curl = readme.lines
    answer = shell(replaced(dig, here), env=env)
    assert "ANSWER: 1," in answer
    assert f"{primary.name}." in answer
    for command in (replaced(curl, here), replaced(sandbox.text, [("127.0.33", SUBNET)])):
        (instance,) = json.loads(shell(command, env=env))
        assert (instance["Service"]["Address"], instance["Service"]["Port"]) == (primary.address, 3306)
    assert shell(replaced(clients.text, here), env=env) == f"{primary.address}\n"


def test_status_shows_every_node(cluster: Cluster) -> None:
    table, commands = claimed(__file__, "test_status_shows_every_node")
    text, as_json = commands.lines
    names = {f"mysql-{node.name}" for node in cluster.nodes}
    said = on(cluster.nodes[0], text)
    assert all(name in said for name in names)
    # What the README shows has the same form.
    for line, documented in zip(said.splitlines(), table.lines[:2], strict=False):
        assert form(line) == form(documented)
    assert {one["node"] for one in json.loads(on(cluster.nodes[0], as_json))["nodes"]} == names


def test_the_role_is_switched_over(cluster: Cluster, watcher: Path) -> None:
    converged(cluster, 2)
    primary, (replica, *_) = roles(cluster)
    if primary.name == "node-2":
        on(primary, f"manage.py switchover --to {replica.name}")
        converged(cluster, 2)
    to_node_2, to_anybody = the_block(__file__, "test_the_role_is_switched_over").lines
    on(cluster.nodes[0], to_node_2)
    assert the_record(cluster)["primary_name"] == "node-2"
    until(lambda: "mysql-primary-node-2" in watcher.read_text(), LONG, "the application is not told")
    converged(cluster, 2)
    on(cluster.nodes[0], to_anybody)
    name = the_record(cluster)["primary_name"]
    assert name != "node-2"
    until(lambda: f"mysql-primary-{name}" in watcher.read_text(), LONG, "the application is not told again")


def test_a_pause_holds_until_resume(cluster: Cluster) -> None:
    """test_cluster_semisync.py kills the primary in a pause."""
    converged(cluster, 2)
    _, (replica, _) = roles(cluster)
    pause, dry_run, resume = the_block(__file__, "test_a_pause_holds_until_resume").lines
    on(replica, pause)
    assert "the switch is replaced" in cluster.status()
    said = on(replica, dry_run)
    assert "paused" in said
    assert "would promote: node-" in said
    on(replica, resume)
    assert "the switch is replaced" not in cluster.status()
    assert "paused" not in on(replica, dry_run)


# --- Snapshots, and after a loss ----------------------------------------------------------------


def test_a_snapshot_is_taken_and_verified(cluster: Cluster) -> None:
    before = last_snapshot(cluster)
    write(cluster, "CREATE TABLE kept (n INT PRIMARY KEY)")
    write(cluster, "INSERT INTO kept VALUES (1)")
    said = on(roles(cluster)[0], the_block(__file__, "test_a_snapshot_is_taken_and_verified").text)
    assert ": good\n" in said
    assert last_snapshot(cluster) > before
    same_rows(cluster, "kept", {1})


def test_a_lost_cluster_is_founded_anew(cluster: Cluster) -> None:
    """Every node is gone, with its data; Consul still knows the cluster, and its last snapshot."""
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        cluster.remove_node(node.name)
    until(lambda: lock_session(cluster) is None, LONG, "a dead node keeps its key")
    fresh = cluster.add_node()
    until(lambda: (server := look(fresh)) is not None and not server.open, LONG, "it does not start")
    on(fresh, the_block(__file__, "test_a_lost_cluster_is_founded_anew").text)
    assert converged(cluster, 0)["primary_name"] == fresh.name
    assert rows_of(fresh, "kept") == {1}
