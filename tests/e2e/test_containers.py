"""The life of a cluster in containers, one test after the other: each begins where the last one ended."""

from __future__ import annotations

import pymysql
import pytest

from tests.e2e.compose import Project, existing_volumes, wait_until

pytestmark = pytest.mark.timeout(1500)

START_SECONDS = 180.0
SETTLE_SECONDS = 180.0
FAILOVER_SECONDS = 90.0
READ_ONLY = 1290


def test_a_single_container_becomes_the_primary(project: Project) -> None:
    project.compose("up", "-d")
    wait_until(lambda: project.primary() is not None, START_SECONDS, "a healthy primary")
    project.write("single")
    settle(project, 1)


def test_its_first_snapshot_is_recorded(project: Project) -> None:
    wait_until(
        lambda: bool(project.consul("kv/mysql-last-backup")),
        START_SECONDS,
        "the first snapshot recorded in Consul",
    )


def test_scaled_to_three_it_has_two_replicas_with_all_rows(project: Project) -> None:
    project.compose("scale", "mysql=3")
    settle(project, 3)
    project.write("three")
    settle(project, 3)


def test_a_replica_refuses_writes(project: Project) -> None:
    replica = project.healthy("mysql")[0]
    with project.client(replica) as cursor, pytest.raises(pymysql.err.OperationalError) as refused:
        cursor.execute("INSERT INTO notes VALUES ('on a replica')")
    assert refused.value.args[0] == READ_ONLY


def test_a_killed_primary_is_replaced_without_losing_a_row(project: Project) -> None:
    old = project.primary()
    assert old
    project.kill(project.container_at(old.address))
    wait_until(
        lambda: project.primary() not in (None, old),
        FAILOVER_SECONDS,
        "another primary after the kill",
    )
    project.write("failover")
    settle(project, 2)


def test_scaled_to_five_the_killed_node_comes_back_as_a_replica(project: Project) -> None:
    # The killed one is started as it was made, and only then: it is left alone where its settings have changed.
    project.compose("scale", "mysql=3")
    project.compose("scale", "mysql=5", pilot="consul")
    settle(project, 5)
    assert project.pilots() == sorted(["consul"] * 2 + [project.pilot] * 3)
    project.write("five")
    settle(project, 5)


def test_containers_made_anew_after_a_change_of_env_keep_their_rows(project: Project) -> None:
    containers, volumes = set(project.containers("mysql")), project.volumes(below="/var/lib/mysql")
    project.settings["BACKUP_TTL"] = "43200"
    project.write_settings()
    project.compose("up", "-d", "--scale", "mysql=5")  # without the number compose goes back to one node
    assert containers.isdisjoint(project.containers("mysql"))
    assert project.volumes(below="/var/lib/mysql") == volumes
    settle(project, 5)
    assert project.pilots() == [project.pilot] * 5
    assert project.registered() == {each[:12] for each in project.containers("mysql")}
    project.write("anew")
    settle(project, 5)


def test_no_secret_is_in_the_logs(project: Project) -> None:
    logs = project.logs()
    assert "replica" in logs
    for name, value in project.settings.items():
        if name.endswith("PASSWORD") or name == "AWS_SECRET_ACCESS_KEY":
            assert value not in logs, f"{name} is in the logs"


def test_down_leaves_nothing(project: Project) -> None:
    volumes = project.volumes()
    project.keep_logs()
    project.remove()
    assert project.leftovers() == []
    assert volumes.isdisjoint(existing_volumes())


def settle(project: Project, nodes: int) -> None:
    """Wait until every node is in its role and has exactly the rows that were acknowledged."""
    what = f"{nodes} nodes in their roles, {len(project.rows)} rows on each"
    wait_until(lambda: project.converged(nodes), SETTLE_SECONDS, what)
    project.show()
