"""What a person decides: who may be promoted, the durability, and what is done after a total loss (127.0.75)."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pymysql
import pytest

from sandbox.cluster import DATABASE, Cluster
from sandbox.node import Node
from sandbox.packages import Packages
from sandbox.servers import consul_ready
from sandbox.writer import TABLE, Writer
from tests.commands import on, shell
from tests.documents import claimed, replaced, the_block
from tests.integration.clusters import (
    LONG,
    ask,
    consul,
    converged,
    failover_step,
    kill_consul,
    local,
    lock_session,
    look,
    manage,
    never,
    open_nodes,
    record,
    roles,
    rows_of,
    running,
    same_rows,
    shown,
    the_record,
    until,
    write,
)

DOCUMENTED = "mysql-backup-2026-07-01T02-00-00Z"

pytestmark = [pytest.mark.failover, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(packages: Packages) -> Iterator[Cluster]:
    with running(packages, "operator", "127.0.75", nodes=3) as made:
        yield made


def restart(node: Node, **settings: str) -> None:
    """Stop a node cleanly and start it with other settings."""
    node.stop()
    replace(node, shared_env={**node.shared_env, **settings}).start()


def restart_all(cluster: Cluster, **settings: str) -> None:
    """The replicas first, then the primary, which hands over to one that has the settings already."""
    primary, others = roles(cluster)
    for node in (*others, primary):
        restart(node, **settings)
        converged(cluster, 2)


def writable(cluster: Cluster) -> bool:
    try:
        write(cluster, "REPLACE INTO kept VALUES (2)")
    except (AssertionError, pymysql.MySQLError):
        return False
    return True


def test_a_node_whose_priority_is_0_is_never_promoted(cluster: Cluster, client: Writer) -> None:
    primary, (never_chosen, other) = roles(cluster)
    restart(never_chosen, FAILOVER_PRIORITY="0")
    converged(cluster, 2)
    until(
        lambda: (
            f"not {never_chosen.name}: FAILOVER_PRIORITY is 0"
            in cluster.manage("failover", "--dry-run").stdout
        ),
        LONG,
        "the setting is not seen",
    )
    refused = cluster.manage("switchover", "--to", never_chosen.name)
    assert refused.returncode == 1
    assert "no member may be promoted" in refused.stderr
    primary.kill()
    until(lambda: the_record(cluster)["primary_name"] == other.name, LONG, "the other one is not promoted")
    primary.start()
    converged(cluster, 2)
    restart(never_chosen)


def test_a_switchover_closes_the_primary_when_the_next_one_is_near(cluster: Cluster, client: Writer) -> None:
    converged(cluster, 2)
    _, (replica, _) = roles(cluster)
    acknowledged = client.history.acknowledged
    with local(replica) as conn, conn.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute(f"LOCK TABLES {DATABASE}.{TABLE} READ")  # its applier waits
        count = len(acknowledged)
        until(lambda: len(acknowledged) > count + 50, LONG, "the replica does not fall behind")
        done = pool.submit(cluster.manage, "switchover", "--to", replica.name)
        until(lambda: failover_step(cluster), LONG, "there is no runner", 0.02)
        time.sleep(2.0)
        count = len(acknowledged)
        time.sleep(1.0)
        written = len(acknowledged) - count
        cursor.execute("UNLOCK TABLES")
        assert done.result().returncode == 0, done.result().stderr
    assert written > 3, f"{written} rows while it waits"
    assert converged(cluster, 2)["primary_name"] == replica.name


@pytest.mark.long
def test_the_durability_changes_under_a_writer(cluster: Cluster, client: Writer) -> None:
    restart_all(cluster, DURABILITY="async")
    until(
        lambda: (the_record(cluster)["durability"], the_record(cluster)["members"]) == ("async", []),
        LONG,
        lambda: f"{the_record(cluster)}",
    )
    primary, _ = roles(cluster)
    assert ask(primary, "SELECT @@rpl_semi_sync_source_enabled AS waits") == [{"waits": 0}]
    assert "async" in cluster.status()
    count = len(client.history.acknowledged)
    until(lambda: len(client.history.acknowledged) > count + 20, LONG, "async: nothing is written")
    restart_all(cluster, DURABILITY="semisync")
    until(lambda: the_record(cluster)["durability"] == "semisync", LONG, lambda: f"{the_record(cluster)}")
    until(lambda: len(the_record(cluster)["members"]) == 2, LONG, lambda: f"{the_record(cluster)}")


def test_one_of_two_members_is_all_that_is_left(cluster: Cluster) -> None:
    """Nobody decides by himself what may be lost; a person is told, and may."""
    epoch = converged(cluster, 2)["epoch"]
    write(cluster, "CREATE TABLE kept (n INT PRIMARY KEY)")
    write(cluster, "INSERT INTO kept VALUES (1)")
    primary, (left, other) = roles(cluster)
    for node in (primary, left, other):
        node.kill()
    left.start()
    until(lambda: lock_session(cluster) is None, LONG, "the dead primary keeps its key")
    until(
        lambda: "would promote: nobody (1 of 2 members" in cluster.manage("failover", "--dry-run").stdout,
        LONG,
        lambda: cluster.manage("failover", "--dry-run").stdout,
    )
    never(lambda: the_record(cluster)["epoch"] > epoch or open_nodes(cluster), 6.0, "promoted by itself")

    dry_run, force = the_block(__file__, "test_one_of_two_members_is_all_that_is_left").lines
    told = on(left, dry_run)
    assert f"would promote: {left.name}" in told
    assert "at risk: 1 of 2 members do not answer: what they alone hold" in told
    assert f"at risk: {left.name} has restarted and may have forgotten what it acknowledged" in told
    assert the_record(cluster)["epoch"] == epoch

    on(left, force)
    assert the_record(cluster)["primary_name"] == left.name
    until(lambda: writable(cluster), LONG, "nothing can be written")
    primary.start()
    other.start()
    converged(cluster, 2)
    same_rows(cluster, "kept", {1, 2})


def test_bootstrap_on_what_is_left(cluster: Cluster, packages: Packages) -> None:
    before = converged(cluster, 2)
    primary, (left, other) = roles(cluster)
    there = manage(packages, left.env, "bootstrap", "--force")
    assert there.code == 1
    assert f"{primary.name} is open for writing" in there.one_line()
    for node in (primary, left, other):
        node.kill()
    left.start()
    until(lambda: look(left) is not None and lock_session(cluster) is None, LONG, "the key is not free")
    # First-start scripts are for an empty database, and would throw this one away if they were cut off.
    late = cluster.directory / "initdb.d" / "10-late.sql"
    late.parent.mkdir()
    late.write_text("CREATE TABLE late (n INT);\n")
    done = manage(packages, left.env, "bootstrap", "--force")
    assert done.code == 0, done.lines
    late.unlink()
    assert ask(left, "SHOW TABLES FROM app LIKE 'late'") == []
    after = converged(cluster, 0)
    assert (after["id"] != before["id"], after["epoch"] > before["epoch"]) == (True, True)
    assert rows_of(left, "kept") == {1, 2}
    # What belongs to the cluster that was given up stays out.
    other.start()
    until(
        lambda: "belongs to cluster" in str(shown(cluster, other.name).get("note")),
        LONG,
        lambda: f"{shown(cluster, other.name)}",
    )
    never(lambda: set(open_nodes(cluster)) - {left.name}, 6.0, "opened")
    for node in (primary, other):
        cluster.remove_node(node.name)


def test_bootstrap_from_a_snapshot_when_nothing_else_is_left(cluster: Cluster, packages: Packages) -> None:
    forget, found = claimed(__file__, "test_bootstrap_from_a_snapshot_when_nothing_else_is_left")
    (last,) = cluster.nodes
    write(cluster, "INSERT INTO kept VALUES (3)")
    taken = manage(packages, last.env | {"BACKUP_TTL": "1"}, "snapshot_task")
    assert taken.code == 0, taken.lines
    text = cluster.catalogue.key(f"{cluster.service_name}-last-backup")
    assert text is not None
    snapshot = json.loads(text)["id"]
    # One that is not due leaves no lock behind.
    assert manage(packages, last.env, "snapshot_task").code == 0
    locks = consul(cluster, f"kv/{cluster.service_name}-backup-running") or []
    assert not [lock for lock in locks if lock.get("Session")]
    last.kill()
    cluster.remove_node(last.name)
    shell(forget.text, env={**cluster.env, "CONSUL_HTTP_ADDR": f"{cluster.consul_address}:8500"})
    assert consul(cluster, "kv/mysql?keys") is None
    kill_consul(cluster)
    shutil.rmtree(cluster.directory / "consul" / "data")
    cluster.start_consul()
    until(lambda: consul_ready(cluster.consul_address), LONG, "Consul does not start")

    fresh = cluster.add_node()
    until(lambda: "may not found a cluster" in fresh.logs(), LONG, "the fresh node does not say why it waits")
    unknown = manage(packages, fresh.env, "bootstrap", "--force", "--snapshot", "no-such-snapshot")
    assert unknown.code == 1
    assert "snapshot no-such-snapshot has no manifest" in unknown.one_line()
    assert record(cluster) is None
    newest = f"the newest is {snapshot}"
    until(lambda: newest in str(shown(cluster, fresh.name).get("note")), LONG, "status names no snapshot")
    on(fresh, replaced(found.text, [(DOCUMENTED, snapshot)]))
    cluster.add_node()
    converged(cluster, 1)
    same_rows(cluster, "kept", {1, 2, 3})
