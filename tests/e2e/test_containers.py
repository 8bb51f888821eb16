"""The life of a cluster in containers, one test after the other: each begins where the last one ended."""

from __future__ import annotations

import pymysql
import pytest

from tests.e2e.compose import Project, existing_volumes, say, wait_until

pytestmark = pytest.mark.timeout(1500)

START_SECONDS = 120.0
JOIN_SECONDS = 120.0
FAILOVER_SECONDS = 60.0


def test_a_single_container_becomes_the_primary(project: Project) -> None:
    project.compose("up", "-d")
    wait_until(lambda: project.primary() is not None, START_SECONDS, "a healthy primary")
    project.write(f"first-{n}" for n in range(100))
    assert len(rows_of_primary(project)) == 100


def test_its_first_snapshot_is_recorded(project: Project) -> None:
    wait_until(
        lambda: bool(project.consul("kv/mysql-last-backup")),
        START_SECONDS,
        "the first snapshot recorded in Consul",
    )


def test_scaled_to_three_it_has_two_replicas_with_all_rows(project: Project) -> None:
    project.compose("scale", "mysql=3")
    wait_for_replicas(project, 2)
    project.write(f"three-{n}" for n in range(100))
    wait_for_all_rows(project)
    show(project)


def test_a_replica_refuses_writes(project: Project) -> None:
    with (
        project.client(project.healthy("mysql")[0]) as cursor,
        pytest.raises(pymysql.err.OperationalError) as refused,
    ):
        cursor.execute("INSERT INTO notes VALUES ('on a replica')")
    assert refused.value.args[0] == 1290


def test_a_killed_primary_is_replaced_without_losing_a_row(project: Project) -> None:
    before = rows_of_primary(project)
    old = project.primary()
    assert old
    killed = project.container_at(old.address)
    project.kill(killed)
    wait_until(
        lambda: project.primary() not in (None, old), FAILOVER_SECONDS, "another primary after the kill"
    )
    project.write(f"failover-{n}" for n in range(100))
    assert rows_of_primary(project) == before | {f"failover-{n}" for n in range(100)}
    wait_for_replicas(project, 1)
    wait_for_all_rows(project)
    show(project)


def test_scaled_to_five_the_killed_node_comes_back_as_a_replica(project: Project) -> None:
    project.compose("scale", "mysql=5")
    assert len(project.containers("mysql")) == 5
    wait_for_replicas(project, 4)
    project.write(f"five-{n}" for n in range(100))
    wait_for_all_rows(project)
    show(project)


def test_containers_made_anew_after_a_change_of_env_keep_their_rows(project: Project) -> None:
    before = rows_of_primary(project)
    containers, volumes = set(project.containers("mysql")), project.volumes(below="/var/lib/mysql")
    project.settings["BACKUP_TTL"] = "43200"
    project.write_settings()
    project.compose("up", "-d", "--scale", "mysql=5")  # without the number compose goes back to one node
    assert containers.isdisjoint(project.containers("mysql"))
    assert project.volumes(below="/var/lib/mysql") == volumes
    wait_until(lambda: project.primary() is not None, START_SECONDS, "a primary among the new containers")
    wait_for_replicas(project, 4)
    assert project.registered() == {each[:12] for each in project.containers("mysql")}
    assert rows_of_primary(project) == before
    project.write(f"anew-{n}" for n in range(100))
    wait_for_all_rows(project)
    show(project)


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


def rows_of_primary(project: Project) -> set[str]:
    primary = project.primary()
    assert primary, "no healthy primary to read from"
    rows = project.read(primary)
    assert rows is not None, "the primary does not answer"
    return rows


def wait_for_replicas(project: Project, count: int) -> None:
    """Wait until each container is a healthy replica, but for the one primary."""

    def all_joined() -> bool:
        primary = project.primary()
        replicas = {replica.address for replica in project.healthy("mysql")}
        containers = {project.address(each) for each in project.containers("mysql")}
        return primary is not None and len(replicas) == count and replicas == containers - {primary.address}

    wait_until(all_joined, JOIN_SECONDS, f"one primary and {count} healthy replicas")


def wait_for_all_rows(project: Project) -> None:
    expected = rows_of_primary(project)
    wait_until(
        lambda: all(project.read(replica) == expected for replica in project.healthy("mysql")),
        JOIN_SECONDS,
        f"all {len(expected)} rows on every replica",
    )


def show(project: Project) -> None:
    say("manage.py status:\n" + project.manage(project.containers("mysql")[0], "status"))
