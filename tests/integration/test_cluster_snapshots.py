"""Snapshots as a person sees them: taken, listed, restored, verified, and never trusted blindly (127.0.93)."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manager.discovery.discovery import Discovery
from manager.mysql.private import PLACE
from manager.settings import Settings, load
from manager.snapshot import archive
from manager.snapshot.catalogue import find
from manager.snapshot.manifest import GOOD, Manifest
from manager.snapshot.pipeline import Digest
from manager.storage import Store, open_store
from sandbox.cluster import Cluster
from sandbox.node import Node
from sandbox.packages import ROOT, Packages
from tests.commands import on
from tests.documents import replaced, the_block
from tests.integration.clusters import (
    LONG,
    Ran,
    converged,
    look,
    manage,
    roles,
    rows_of,
    running,
    same_rows,
    server_pid,
    until,
    write,
)

NUMBERS = "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 999)"
ROWS = f"{NUMBERS} SELECT n, REPEAT('x', 200) FROM s"

pytestmark = [pytest.mark.failover, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    """Two nodes with some rows; what the tests leave in the store and in Consul the next ones find."""
    # No pilot takes one between two looks of a test.
    env = {"SNAPSHOT_INTERVAL": "3600"}
    with running(packages, "snapshots", "127.0.93", nodes=2, env=env) as made:
        converged(made, 1)
        write(made, "CREATE TABLE kept (n BIGINT PRIMARY KEY, filler VARCHAR(200))")
        write(made, f"INSERT INTO kept {ROWS}")
        yield made


def recorded(cluster: Cluster) -> str | None:
    """The id of the snapshot that Consul names."""
    text = cluster.catalogue.key(f"{cluster.service_name}-last-backup")
    return str(json.loads(text)["id"]) if text else None


def run(node: Node, *words: str, **changes: str) -> Ran:
    return manage(node.packages, {**node.env, **changes}, *words)


def taken(node: Node) -> str:
    """Take a snapshot and return its id."""
    done = run(node, "snapshot")
    assert done.code == 0, done.lines
    return listed(node)[0]["id"]  # type: ignore[no-any-return]


def listed(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(node, "snapshots", "--json").out)
    return found


def settings(node: Node) -> Settings:
    return load(node.env)


def store(node: Node) -> Store:
    return open_store(settings(node))


def put(node: Node, manifest: Manifest, content: bytes) -> None:
    """Put another object in a snapshot's place; its manifest stays."""
    store(node).put_bytes(manifest.id, content)


def content(node: Node, snapshot: str) -> bytes:
    return b"".join(store(node).get_stream(snapshot))


def a_new_node_joins(cluster: Cluster) -> Node:
    """Add a node, wait until it replicates and has every row, and return it."""
    node = cluster.add_node()
    converged(cluster, len(cluster.nodes) - 1)
    same_rows(cluster, "kept", rows_of(roles(cluster)[0], "kept"))
    return node


# --- Taking, listing, restoring -----------------------------------------------------------------


def test_one_is_taken_when_asked_for(cluster: Cluster) -> None:
    primary, (replica,) = roles(cluster)
    first = taken(primary)
    assert recorded(cluster) == first
    second = taken(replica)
    assert recorded(cluster) == second != first
    shown = run(primary, "snapshots")
    assert (shown.code, len(shown.out.splitlines())) == (0, len(listed(primary)) + 1)
    newest, before, *_ = listed(primary)
    assert (newest["id"], newest["recorded"], newest["taken_on"]) == (second, True, f"mysql-{replica.name}")
    assert (before["id"], before["recorded"], before["of_this_cluster"]) == (first, False, True)
    assert "the next node starts with it" in shown.out.splitlines()[1]


def test_a_data_directory_is_restored_anywhere(cluster: Cluster, tmp_path: Path) -> None:
    primary, _ = roles(cluster)
    snapshot = taken(primary)
    target = tmp_path / "restored"
    done = run(primary, "restore", "--datadir", str(target))
    assert done.code == 0, done.lines
    assert f"{snapshot} is restored in {target}" in done.out
    assert (target / "app" / "kept.ibd").exists()
    assert json.loads((target / ".autopilot.json").read_text())["origin"] == "restored"
    again = run(primary, "restore", "--snapshot", snapshot, "--datadir", str(target))
    assert again.code == 1
    assert f"{target} is not empty" in again.one_line()
    unknown = run(primary, "restore", "--snapshot", "mysql-backup-1", "--datadir", str(tmp_path / "none"))
    assert unknown.code == 1
    assert "snapshot mysql-backup-1 has no manifest" in unknown.one_line()


def test_what_is_known_of_them(cluster: Cluster, tmp_path: Path) -> None:
    primary, _ = roles(cluster)
    snapshot = taken(primary)
    text = replaced(
        the_block(__file__, "test_what_is_known_of_them").text, [("/tmp/data", f"{tmp_path}/data")]
    )
    said = on(primary, text)
    assert f"{snapshot}: {GOOD}\n" in said
    assert f"{snapshot} is restored in {tmp_path}/data" in said


def test_retention_leaves_what_is_being_restored(cluster: Cluster) -> None:
    primary, _ = roles(cluster)
    old = taken(primary)
    with Discovery(settings(primary)).restoring(old):
        done = run(primary, "snapshot", SNAPSHOT_KEEP="1")
        assert done.code == 0, done.lines
        assert {row["id"] for row in listed(primary)} == {old, recorded(cluster)}
    done = run(primary, "snapshot", SNAPSHOT_KEEP="1")
    assert done.code == 0, done.lines
    assert [row["id"] for row in listed(primary)] == [recorded(cluster)]
    assert {each.name for each in store(primary).list("mysql-backup")} == {
        str(recorded(cluster)),
        f"{recorded(cluster)}.manifest.json",
    }


# --- Verifying ----------------------------------------------------------------------------------


def test_a_good_one_is_found_good_and_nothing_else_is_touched(cluster: Cluster) -> None:
    primary, (replica,) = roles(cluster)
    snapshot = taken(primary)
    before = look(replica), server_pid(replica)
    done = run(replica, "verify")
    assert (done.code, done.out.strip()) == (0, f"{snapshot}: {GOOD}")
    assert (look(replica), server_pid(replica)) == before
    assert listed(primary)[0]["verdict"] == GOOD
    assert find(store(primary), snapshot).verified_at > 0
    assert recorded(cluster) == snapshot
    assert not list((replica.directory / "scratch").glob(".verify*"))


def test_a_verification_that_was_killed_leaves_nothing_in_the_way(cluster: Cluster) -> None:
    replica = roles(cluster)[1][0]
    place = replica.directory / "scratch" / f".verify-{replica.name}"
    command = [sys.executable, str(ROOT / "bin" / "manage.py"), "verify"]
    hook = subprocess.Popen(command, env=replica.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(
        lambda: (place / "data" / PLACE / "mysqld.pid").exists(), LONG, "no private mysqld is started", 0.02
    )
    hook.kill()
    hook.wait()
    left = int((place / "data" / PLACE / "mysqld.pid").read_text())
    until(lambda: not Path(f"/proc/{left}").exists(), 10.0, "the private mysqld has outlived its hook")
    assert place.exists()
    done = run(replica, "verify")
    assert done.code == 0, done.lines
    assert not place.exists()


def test_a_flipped_bit_is_found_and_the_one_before_takes_its_place(cluster: Cluster) -> None:
    primary, (replica,) = roles(cluster)
    good = taken(primary)
    bad = taken(primary)
    data = bytearray(content(primary, bad))
    data[len(data) // 2] ^= 1
    put(primary, find(store(primary), bad), bytes(data))
    done = run(replica, "verify")
    assert done.code == 1
    assert f"{bad}: " in done.out
    assert "damaged" in done.out
    assert recorded(cluster) == good
    assert next(row for row in listed(primary) if row["id"] == bad)["verdict"] in done.out


@pytest.mark.parametrize("kind", ["flipped bit", "truncated", "object of another"])
def test_a_new_node_starts_with_the_one_before_a_damaged_one(cluster: Cluster, kind: str) -> None:
    primary, _ = roles(cluster)
    good, bad = taken(primary), taken(primary)
    data = bytearray(content(primary, bad))
    if kind == "flipped bit":
        data[len(data) // 2] ^= 1
    elif kind == "truncated":
        del data[len(data) // 2 :]
    else:
        data[:] = content(primary, good)
    put(primary, find(store(primary), bad), bytes(data))
    node = a_new_node_joins(cluster)
    assert f"snapshot {bad}" in node.logs()
    assert f"restoring snapshot {good}" in node.logs()
    assert recorded(cluster) == good
    cluster.remove_node(node.name)


def test_a_wrong_gtid_set_is_found(cluster: Cluster) -> None:
    primary, (replica,) = roles(cluster)
    snapshot = taken(primary)
    manifest = find(store(primary), snapshot)
    more = f"{manifest.server_uuid}:1-999999"
    store(primary).put_bytes(manifest.name, replace(manifest, gtid=more, gtid_after=more).to_json())
    done = run(replica, "verify")
    assert done.code == 1
    assert "it lacks transactions that its manifest names" in done.out


def test_a_damaged_page_is_found(cluster: Cluster, tmp_path: Path) -> None:
    primary, (replica,) = roles(cluster)
    replica.stop()  # else the redo log, which goes with the files, makes the page anew
    replica.start()
    converged(cluster, 1)
    snapshot = taken(replica)
    target = tmp_path / "restored"
    assert run(primary, "restore", "--datadir", str(target)).code == 0
    for hidden in target.glob(".autopilot*"):
        hidden.unlink()
    with open(target / "app" / "kept.ibd", "r+b") as file:
        file.seek(5 * 16384 + 200)
        file.write(b"\xff" * 64)
    digest = Digest()
    data = b"".join(digest.follow(archive.compress(archive.pack(target))))
    manifest = replace(find(store(primary), snapshot), size=digest.size, sha256=digest.sha256)
    put(primary, manifest, data)
    store(primary).put_bytes(manifest.name, manifest.to_json())
    done = run(replica, "verify")
    assert done.code == 1, done.lines
    assert "mysqld ended while it looked at app.kept" in done.out or "does not start on it" in done.out
    assert recorded(cluster) != snapshot


def test_one_is_verified_by_itself_when_it_is_time(cluster: Cluster) -> None:
    primary, (replica,) = roles(cluster)
    snapshot = taken(primary)
    key = f"{cluster.service_name}-last-verify"
    request = urllib.request.Request(
        f"http://{cluster.consul_address}:8500/v1/kv/{key}", method="PUT", data=b"100"
    )
    urllib.request.urlopen(request, timeout=5).close()
    assert run(primary, "snapshot_task", VERIFY_INTERVAL="60").code == 0
    assert cluster.catalogue.key(key) == b"100", "it is a replica's turn"
    assert run(replica, "snapshot_task", VERIFY_INTERVAL="60").code == 0
    until(lambda: find(store(primary), snapshot).verdict == GOOD, LONG, "it is not verified")


# --- Without a snapshot that fits ---------------------------------------------------------------


def test_a_replica_that_was_away_too_long_gets_a_copy_of_the_primary(cluster: Cluster) -> None:
    primary, (replica,) = roles(cluster)
    replica.stop()
    write(cluster, "INSERT INTO kept VALUES (1000001, 'while it was away')")
    primary.mysql("FLUSH BINARY LOGS")
    (last,) = primary.mysql("SHOW BINARY LOG STATUS")
    primary.mysql(f"PURGE BINARY LOGS TO '{last['File']}'")
    replica.start()
    converged(cluster, 1)
    same_rows(cluster, "kept", rows_of(primary, "kept"))
    assert "it gets a copy of the primary" in replica.logs()


def test_a_new_node_gets_a_copy_of_the_primary_when_the_store_is_gone(cluster: Cluster) -> None:
    primary, _ = roles(cluster)
    primary.mysql("FLUSH BINARY LOGS")
    for row in listed(primary):
        store(primary).delete(f"{row['id']}.manifest.json")
    node = cluster.add_node()
    converged(cluster, 2)
    same_rows(cluster, "kept", rows_of(primary, "kept"))
    assert "has no manifest" in node.logs()
    cluster.remove_node(node.name)
