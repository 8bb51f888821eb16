"""The life of a cluster in containers, one test after the other: each begins where the last one ended.

Whatever happens to the nodes, a client writes meanwhile; afterwards every node has every row that was acknowledged.
"""

from __future__ import annotations

import time

import pymysql
import pytest

from sandbox.writer import TABLE, Writer
from tests.documents import replaced, the_block
from tests.e2e.compose import Project, existing_volumes, say, wait_until

pytestmark = pytest.mark.timeout(1500)

START_SECONDS = 180.0
SETTLE_SECONDS = 180.0
FAILOVER_SECONDS = 90.0
READ_ONLY = 1290


def test_a_single_container_becomes_the_primary(project: Project) -> None:
    project.compose("up", "-d")
    wait_until(lambda: project.primary() is not None, START_SECONDS, "a healthy primary")
    with project.writing():
        pass
    settle(project, 1)


def test_its_first_snapshot_is_recorded(project: Project) -> None:
    wait_until(
        lambda: project.catalogue.key("mysql-last-backup") is not None,
        START_SECONDS,
        "the first snapshot recorded in Consul",
    )


def test_scaled_to_three_it_has_two_replicas_with_all_rows(project: Project) -> None:
    with project.writing():
        project.compose("scale", "mysql=3")
    settle(project, 3)


def test_the_first_start_script_has_run_once(project: Project) -> None:
    for instance in (project.catalogue.primary, *project.catalogue.replicas):
        assert instance is not None
        with project.client(instance) as cursor:
            cursor.execute("SELECT what FROM first_start")
            assert cursor.fetchall() == (("initdb.d",),)


def test_a_replica_refuses_writes(project: Project) -> None:
    replica = project.catalogue.replicas[0]
    with project.client(replica) as cursor, pytest.raises(pymysql.err.OperationalError) as refused:
        cursor.execute(f"INSERT INTO {TABLE} VALUES (0, NOW(6))")
    assert refused.value.args[0] == READ_ONLY


def test_a_killed_primary_is_replaced(project: Project) -> None:
    with project.writing() as client:
        begin = time.monotonic()
        project.docker("kill", project.primary_container())
        goes_on(client, begin)
    settle(project, 2)


def test_scaled_to_five_the_killed_node_comes_back_as_a_replica(project: Project) -> None:
    with project.writing():
        # The killed one is started as it was made, and only then: it is left alone where its settings have changed.
        project.compose("scale", "mysql=3")
        project.compose("scale", "mysql=5", pilot="consul")
    settle(project, 5)
    assert project.pilots() == sorted(["consul"] * 2 + [project.pilot] * 3)


def test_a_paused_primary_is_replaced_and_comes_back(project: Project) -> None:
    with project.writing() as client:
        begin, paused = time.monotonic(), project.primary_container()
        project.docker("pause", paused)
        goes_on(client, begin)
        project.docker("unpause", paused)
        settle_under_writes(project, 5)
    settle(project, 5)


def test_a_primary_that_is_cut_off_is_replaced_and_comes_back(project: Project) -> None:
    with project.writing() as client:
        begin = time.monotonic()
        with project.cut_off(project.primary_container()):
            goes_on(client, begin)
        settle_under_writes(project, 5)
    settle(project, 5)


def test_a_primary_that_is_stopped_hands_over_first(project: Project) -> None:
    with project.writing() as client:
        begin, stopped = time.monotonic(), project.primary_container()
        project.docker("stop", stopped)
        assert goes_on(client, begin) < 5.0
        project.docker("start", stopped)
        settle_under_writes(project, 5)
    settle(project, 5)


def test_scaled_down_to_three_nothing_is_lost(project: Project) -> None:
    with project.writing() as client:
        begin = time.monotonic()
        project.compose("scale", "mysql=3")
        goes_on(client, begin)
    settle(project, 3)


@pytest.mark.long
def test_every_container_is_replaced_by_a_newer_image(project: Project) -> None:
    old = project.images_in_use()
    text = the_block(__file__, "test_every_container_is_replaced_by_a_newer_image").text
    project.build_newer(replaced(text, [("FROM autopilot-mysql\n", f"FROM {project.image}\n")]))
    with project.writing():
        primary = project.primary_container()
        for container in [each for each in project.containers("mysql") if each != primary] + [primary]:
            project.docker("stop", container)
            project.docker("rm", "--volumes", container)
            project.compose("scale", "mysql=3")
            settle_under_writes(project, 3)
    settle(project, 3)
    new = project.images_in_use()
    assert len(new) == 1
    assert old.isdisjoint(new)
    primary_now = project.primary()
    assert primary_now is not None
    with project.client(primary_now) as cursor:
        cursor.execute("SELECT @@max_connections")
        assert cursor.fetchone() == (77,)


@pytest.mark.long
def test_containers_made_anew_after_a_change_of_env_keep_their_rows(project: Project) -> None:
    containers, volumes = set(project.containers("mysql")), project.volumes(below="/var/lib/mysql")
    project.settings["BACKUP_TTL"] = "43200"
    project.write_settings()
    with project.writing():
        project.compose("up", "-d", "--scale", "mysql=3")  # without the number compose goes back to one node
    assert containers.isdisjoint(project.containers("mysql"))
    assert project.volumes(below="/var/lib/mysql") == volumes
    settle(project, 3)
    assert project.pilots() == [project.pilot] * 3
    assert project.catalogue.nodes == {each[:12] for each in project.containers("mysql")}


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


def goes_on(client: Writer, begin: float) -> float:
    """Wait until the writer is acknowledged again after what began at `begin`; return how long it was not."""
    done = time.monotonic()

    def again() -> bool:
        return client.history.gap(begin) is not None and max(client.history.acknowledged.values()) > done

    wait_until(again, FAILOVER_SECONDS, "writes go on")
    gap = client.history.gap(begin)
    assert gap is not None
    say(f"nothing was acknowledged for {gap:.2f} s")
    return gap


def settle_under_writes(project: Project, nodes: int) -> None:
    """Wait until every node is in its role; rows that come meanwhile do not count."""
    what = f"{nodes} nodes in their roles"
    wait_until(
        lambda: not project.lacks(nodes, rows=False),
        SETTLE_SECONDS,
        what,
        lambda: project.lacks(nodes, rows=False),
    )


def settle(project: Project, nodes: int) -> None:
    """Wait until every node is in its role and has exactly the rows that were acknowledged."""
    what = f"{nodes} nodes in their roles, {len(project.rows)} rows on each"
    wait_until(lambda: not project.lacks(nodes), SETTLE_SECONDS, what, lambda: project.lacks(nodes))
    project.show()
