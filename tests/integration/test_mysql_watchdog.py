"""The watchdog inside mysqld: closes a server that nobody looks after any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.mysql import operations
from manager.mysql.connection import Connection
from manager.mysql.state import read_state, serves
from sandbox.packages import Packages
from sandbox.processes import wait_for
from tests.integration.mysql_nodes import LONG, Node, nodes

pytestmark = pytest.mark.feature("watchdog")

ADDRESS = "127.0.41.50"


@pytest.fixture(scope="module")
def server(each_mysql: Packages, module_directory: Path) -> Iterator[Node]:
    with nodes(each_mysql, module_directory, ADDRESS) as (node,):
        node.start()
        node.found()
        yield node


@pytest.fixture(params=["local", "remote"])
def conn(server: Node, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """The server is open, its watchdog made by this connection's account, local or remote."""
    with server.local() as first:
        operations.close_server(first)
        with operations.privileged_writes(first):
            unlogged(first, "DROP EVENT IF EXISTS autopilot.watchdog")
        assert wait_for(lambda: not operations.watchdog_runs(first), LONG)
    with server.local() if request.param == "local" else server.remote() as made_by:
        server.open(made_by)
        assert wait_for(lambda: operations.watchdog_runs(made_by), LONG)
        yield made_by


def unlogged(conn: Connection, *statements: str) -> None:
    conn.run("SET sql_log_bin = 0")
    for statement in statements:
        conn.run(statement)
    conn.run("SET sql_log_bin = 1")


def closes_soon(conn: Connection, lease_s: float = 0.0) -> bool:
    """Closed, and not before the lease was over."""
    begun = time.monotonic()
    closed = wait_for(lambda: not serves(conn), lease_s + 4.0, interval=0.02)
    assert time.monotonic() - begun >= lease_s - 0.2
    assert time.monotonic() - begun < lease_s + 3.0
    return closed


def test_it_runs_as_the_account_that_opened_the_server(conn: Connection) -> None:
    definer = conn.value("SELECT DEFINER FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'autopilot'")
    assert definer == conn.value("SELECT CURRENT_USER()")
    # Its first tick comes up to 1.1 s after the opening, more where the processor has other work.
    assert wait_for(lambda: operations.watchdog_runs(conn), LONG)
    assert read_state(conn).serves


def test_lease_over(conn: Connection) -> None:
    operations.refresh_lease(conn, 1.5)
    assert closes_soon(conn, 1.5)


@pytest.mark.parametrize(
    "fault",
    [
        "UPDATE autopilot.lease SET until_ts = NULL",
        "DELETE FROM autopilot.lease",
        "DROP TABLE autopilot.lease",
        "ALTER TABLE autopilot.lease CHANGE until_ts x DATETIME(6) NULL",
    ],
)
def test_lease_missing(conn: Connection, fault: str) -> None:
    unlogged(conn, fault)
    assert closes_soon(conn)
    unlogged(conn, "DROP TABLE IF EXISTS autopilot.lease")


def test_a_refreshed_lease_keeps_it_open(conn: Connection) -> None:
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        operations.refresh_lease(conn, 1.5)
        assert read_state(conn).serves
        time.sleep(0.1)


@pytest.mark.parametrize(
    "hindrance",
    [
        ("LOCK INSTANCE FOR BACKUP",),
        ("FLUSH TABLES WITH READ LOCK",),
        ("BEGIN", "SELECT * FROM autopilot.lease FOR UPDATE"),
        ("SET GLOBAL event_scheduler = OFF",),
    ],
)
def test_it_closes_under_locks_and_without_the_scheduler(
    server: Node, conn: Connection, hindrance: tuple[str, ...]
) -> None:
    if hindrance[0].startswith("LOCK INSTANCE") and not server.words.public_key:
        pytest.skip("there is no backup lock before 8.0")
    operations.refresh_lease(conn, 1.5)
    with server.local() as other:
        for statement in hindrance:
            other.run(statement)
        assert closes_soon(other, 1.5)
        other.run("SET GLOBAL event_scheduler = ON")


def test_a_killed_loop_starts_again(conn: Connection) -> None:
    assert wait_for(lambda: operations.watchdog_runs(conn), LONG)
    loop = conn.value("SELECT IS_USED_LOCK('autopilot-watchdog')")
    conn.run("KILL %s", (loop,))
    assert wait_for(lambda: conn.value("SELECT IS_USED_LOCK('autopilot-watchdog')") not in (None, loop), LONG)
    operations.refresh_lease(conn, 0.1)
    assert closes_soon(conn, 0.1)


def test_it_leaves_a_readable_replica_alone(conn: Connection) -> None:
    """super_read_only goes off there for a moment, when the hooks write their row."""
    operations.close_server(conn)
    operations.open_for_reading(conn)
    unlogged_row_update_window = 2.5
    with operations.privileged_writes(conn):
        unlogged(conn, "UPDATE autopilot.lease SET until_ts = NULL")
        assert wait_for(lambda: operations.watchdog_runs(conn), LONG)
        time.sleep(unlogged_row_update_window)
    assert not read_state(conn).offline_mode


def test_it_goes_to_rest_when_the_server_is_closed(conn: Connection) -> None:
    operations.close_server(conn)
    assert wait_for(lambda: not operations.watchdog_runs(conn), LONG)
