"""Opening, closing and the local rows, on a real server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from manager.errors import AccessDenied, MySQLError, NotClosed, ServerOffline
from manager.mysql import connection, operations
from manager.mysql.connection import Connection
from manager.mysql.state import LocalRow, read_row, read_state
from sandbox.packages import Packages
from sandbox.processes import wait_for
from tests.integration.mysql_nodes import AWKWARD, LONG, Node, nodes

pytestmark = pytest.mark.feature("opening and closing")

ADDRESS = "127.0.41.30"


@pytest.fixture(scope="module")
def server(each_mysql: Packages, module_directory: Path) -> Iterator[Node]:
    with nodes(each_mysql, module_directory, ADDRESS) as (node,):
        node.start()
        node.found()
        with node.client() as client, client.cursor() as cursor:
            cursor.execute("CREATE TABLE my_db.t (id INT PRIMARY KEY, v INT)")
            cursor.execute("INSERT INTO my_db.t VALUES (1, 0), (2, 0)")
        yield node


@pytest.fixture
def node(server: Node) -> Node:
    """The server, open for writing again whatever the test before did with it."""
    with server.local() as conn:
        server.open(conn)
    return server


@pytest.fixture
def conn(node: Node) -> Iterator[Connection]:
    with node.local() as connection:
        yield connection


def as_application(node: Node) -> Connection:
    """Log in as the plain account, through our own mapping of errors."""
    settings = node.renamed(mysql_repl_user=node.settings.mysql_user)
    return connection.remote(settings, node.address, node.settings.mysql_port)


def test_open_for_writing_serves(node: Node, conn: Connection) -> None:
    state = read_state(conn)
    assert state.serves
    assert not state.closed
    assert state.row == LocalRow(
        server_uuid=state.server_uuid, cluster_id="cluster", epoch=1, version=1, opened_epoch=1, record="{}"
    )
    with node.client() as client, client.cursor() as cursor:
        assert cursor.execute("UPDATE my_db.t SET v = v + 1 WHERE id = 1") == 1


def test_opening_and_lease_leave_no_trace_in_the_binlog(node: Node, conn: Connection) -> None:
    before = read_state(conn).executed
    operations.close_server(conn)
    node.open(conn)
    operations.refresh_lease(conn, 600)
    operations.change_row(
        conn, lambda _: LocalRow(server_uuid=read_state(conn).server_uuid, epoch=1, version=7)
    )
    assert read_state(conn).executed == before


def test_close_cuts_the_application_and_keeps_it_out(node: Node, conn: Connection) -> None:
    with contextlib.closing(node.client()) as client, client.cursor() as cursor:
        cursor.execute("SELECT 1")
        operations.close_server(conn)
        with pytest.raises(pymysql.OperationalError, match="Lost connection|gone away|killed"):
            cursor.execute("SELECT 1")
    assert read_state(conn).closed
    operations.close_server(conn)
    has = conn.capabilities
    if has.offline_mode:
        with pytest.raises(ServerOffline):
            as_application(node)
    else:
        with as_application(node) as application, pytest.raises(MySQLError, match="read-only"):
            application.run("UPDATE my_db.t SET v = 1")
    if has.super_read_only:
        with node.remote() as remote, pytest.raises(MySQLError) as refused:
            remote.run("CREATE DATABASE not_here")
        assert refused.value.errno == 1290


def test_close_leaves_what_a_replica_holds(node: Node, conn: Connection) -> None:
    """Accounts with SUPER or CONNECTION_ADMIN stay, and so does what a replica reads."""
    with node.remote() as other:
        operations.close_server(conn)
        assert other.value("SELECT 1") == 1


def test_close_needs_only_the_replication_account(node: Node) -> None:
    with node.remote() as remote:
        operations.close_server(remote)
        assert read_state(remote).closed


def test_close_is_not_held_up_by_locks_of_the_application(node: Node, conn: Connection) -> None:
    with contextlib.closing(node.client()) as client, client.cursor() as cursor:
        cursor.execute("LOCK TABLES my_db.t WRITE")
        begun = time.monotonic()
        operations.close_server(conn)
        assert time.monotonic() - begun < 10
    assert read_state(conn).closed


def test_close_is_bounded_when_a_privileged_statement_runs(node: Node, conn: Connection) -> None:
    """The long UPDATE of an account that offline_mode does not cut."""
    running = threading.Event()

    def long_update() -> None:
        with node.local(timeout=120) as other, contextlib.suppress(MySQLError):
            running.set()
            other.run("UPDATE my_db.t SET v = SLEEP(30) WHERE id = 2")

    thread = threading.Thread(target=long_update)
    thread.start()
    assert running.wait(LONG)
    busy = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'UPDATE my_db.t SET v = SLEEP%'"
    assert wait_for(lambda: conn.value(busy) is not None, LONG)
    begun = time.monotonic()
    with pytest.raises(NotClosed, match="not read-only after 2 s"):
        operations.close_server(conn)
    assert time.monotonic() - begun < 15
    state = read_state(conn)
    assert state.offline_mode is conn.capabilities.offline_mode
    assert not state.super_read_only
    conn.run("KILL %s", (conn.value(busy),))
    thread.join(LONG)
    operations.close_server(conn)
    assert read_state(conn).closed


def test_close_is_bounded_when_a_privileged_table_lock_is_held(node: Node, conn: Connection) -> None:
    with node.local() as other:
        other.run("LOCK TABLES my_db.t WRITE")
        with pytest.raises(NotClosed):
            operations.close_server(conn, read_only_timeout=1.0)
        assert read_state(conn).offline_mode is conn.capabilities.offline_mode
    assert wait_for(lambda: closes(conn), LONG)


def closes(conn: Connection) -> bool:
    with contextlib.suppress(NotClosed):
        operations.close_server(conn)
        return True
    return False


def test_open_for_reading_lets_the_application_read_only(node: Node, conn: Connection) -> None:
    operations.close_server(conn)
    operations.open_for_reading(conn)
    with node.client() as client, client.cursor() as cursor:
        assert cursor.execute("SELECT * FROM my_db.t") == 2
        with pytest.raises(pymysql.OperationalError, match="read-only"):
            cursor.execute("UPDATE my_db.t SET v = 9")
    state = read_state(conn)
    assert state.super_read_only
    assert not state.serves
    # Without offline_mode a closed server is no other than one that is open for reading.
    assert state.closed is not conn.capabilities.offline_mode


@pytest.mark.parametrize("privileges_kept", [True, False])
def test_change_row_on_a_super_read_only_server(node: Node, conn: Connection, privileges_kept: bool) -> None:
    operations.close_server(conn)
    uuid = read_state(conn).server_uuid
    row = LocalRow(server_uuid=uuid, cluster_id="c", epoch=3, version=9, priority=5, record='{"a": "\'ł%"}')
    with node.local() if privileges_kept else node.remote() as writer:
        operations.change_row(writer, lambda _: row)
        assert writer.value("SELECT @@sql_log_bin") == 1
    state = read_state(conn)
    assert state.row == row
    assert state.closed
    operations.change_row(conn, lambda _: row)
    assert read_row(conn, server_uuid=uuid) == row


def test_change_row_makes_its_schema_again(node: Node, conn: Connection) -> None:
    operations.close_server(conn)
    with operations.privileged_writes(conn):
        conn.run("SET sql_log_bin = 0")
        conn.run("DROP DATABASE autopilot")
        conn.run("SET sql_log_bin = 1")
    state = read_state(conn)
    assert state.row is None
    row = LocalRow(server_uuid=state.server_uuid, epoch=3)
    operations.change_row(conn, lambda _: row)
    assert read_state(conn).row == row


def test_another_servers_row_does_not_count(node: Node, conn: Connection) -> None:
    conn.run("SET sql_log_bin = 0")
    conn.run("UPDATE autopilot.node SET server_uuid = '3e11fa47-71ca-11e1-9e33-c80aa9429562'")
    conn.run("SET sql_log_bin = 1")
    state = read_state(conn)
    assert state.row is None
    operations.change_row(conn, lambda _: LocalRow(server_uuid=state.server_uuid, epoch=2))
    assert conn.value("SELECT COUNT(*) FROM autopilot.node") == 1


class Killed(Exception):
    """Stands for SIGKILL of the hook: nothing of it is executed any more."""


class Dying:
    """A connection whose process dies before its n-th statement; a real session is cut like by a kill."""

    def __init__(self, inner: Connection, statements: int) -> None:
        self.inner = inner
        self.left = statements

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def rows(self, sql: str, args: tuple[object, ...] = ()) -> object:
        if self.left == 0:
            self.inner.close()
            raise Killed
        self.left -= 1
        return self.inner.rows(sql, args)

    row = Connection.row
    value = Connection.value
    run = Connection.run


def test_open_for_writing_converges_after_a_kill_at_any_point(node: Node, conn: Connection) -> None:
    survived = 0
    for statements in range(60):
        operations.close_server(conn)
        operations.let_hooks_write(conn)
        conn.run("SET sql_log_bin = 0")
        conn.run("DROP EVENT IF EXISTS autopilot.watchdog")
        conn.run("DELETE FROM autopilot.node")
        conn.run("SET sql_log_bin = 1")
        operations.close_server(conn)
        assert wait_for(lambda: not operations.watchdog_runs(conn), LONG)
        hook = Dying(node.local(), statements)
        with contextlib.suppress(Killed, MySQLError):
            node.open(hook)  # type: ignore[arg-type]
            survived += 1
        state = read_state(conn)
        assert not state.serves or (
            wait_for(lambda: operations.watchdog_runs(conn), LONG) and state.row is not None
        )
        node.open(conn)
        assert read_state(conn).serves
        assert wait_for(lambda: operations.watchdog_runs(conn), LONG)
        if survived:
            break
    assert survived == 1
    assert statements > 10


def test_users_events_are_enabled_as_their_owner_made_them(node: Node, conn: Connection) -> None:
    conn.run("SET time_zone = '+03:00', sql_mode = 'ANSI_QUOTES'")
    conn.run("CREATE EVENT my_db.`e%v` ON SCHEDULE EVERY 1 DAY DO SET @a = 1")
    conn.run("CREATE EVENT my_db.off ON SCHEDULE EVERY 1 DAY DISABLE DO SET @a = 1")
    conn.run(f"ALTER DEFINER = 'app'@'%' EVENT my_db.`e%v` DISABLE ON {node.words.replica.upper()}")
    columns = (
        "DEFINER, SQL_MODE, TIME_ZONE, STATUS FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'my_db'"
    )
    with node.local() as other:
        assert operations.enable_users_events(other) == ["my_db.e%v"]
        assert operations.enable_users_events(other) == []
        assert other.value("SELECT @@sql_mode") == "NO_ENGINE_SUBSTITUTION"
        rows = other.rows(f"SELECT {columns} ORDER BY EVENT_NAME")
    assert [row["STATUS"] for row in rows] == ["ENABLED", "DISABLED"]
    assert rows[0]["DEFINER"] == "app@%"
    assert rows[0]["SQL_MODE"] == "ANSI_QUOTES"
    assert rows[0]["TIME_ZONE"] == "+03:00"
    conn.run("DROP EVENT my_db.`e%v`")
    conn.run("DROP EVENT my_db.off")


def test_the_password_is_nowhere_in_an_error(node: Node) -> None:
    settings = node.renamed(mysql_repl_user="nobody-here")
    with pytest.raises(AccessDenied) as refused:
        connection.remote(settings, node.address, node.settings.mysql_port)
    assert AWKWARD not in str(refused.value)
