"""Connections: every one bounded, every error one of ours."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.errors import AccessDenied, MySQLError, ServerOffline, ServerUnreachable
from manager.mysql import connection, operations
from manager.mysql.connection import Connection
from manager.settings import Secret
from sandbox.packages import Packages
from tests.integration.mysql_nodes import AWKWARD, Node, nodes

ADDRESS = "127.0.41.10"
OTHER = "127.0.41.11"


@pytest.fixture(scope="module")
def node(each_mysql: Packages, module_directory: Path) -> Iterator[Node]:
    with nodes(each_mysql, module_directory, ADDRESS) as (node,):
        node.start()
        node.found()
        yield node


@pytest.fixture
def conn(node: Node) -> Iterator[Connection]:
    with node.local() as connection:
        yield connection


def test_local_and_remote_login(node: Node, conn: Connection) -> None:
    assert conn.value("SELECT CURRENT_USER()") == "autopilot@localhost"
    assert conn.version.startswith(f"{node.packages.server}.")
    assert conn.connection_id == conn.value("SELECT CONNECTION_ID()")
    with node.remote() as remote:
        assert remote.value("SELECT CURRENT_USER()") == "repl@%"
        cipher = remote.row("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        assert cipher is not None
        assert bool(cipher["Value"]) is conn.capabilities.tls


@pytest.mark.parametrize("value", [AWKWARD, "100%", "'", '"', "\\", "\\'", "ł日本😀", None, 7])
def test_values_are_bound(conn: Connection, value: object) -> None:
    assert conn.value("SELECT %s AS v", (value,)) == value


def test_rows(conn: Connection) -> None:
    assert conn.rows("SELECT 1 AS a, '5%' AS b") == [{"a": 1, "b": "5%"}]
    assert conn.row("SELECT 1 FROM DUAL WHERE 1 = 0") is None
    assert conn.value("SELECT 1 FROM DUAL WHERE 1 = 0") is None
    conn.run("DO 1")


def test_refusals(node: Node, conn: Connection) -> None:
    with pytest.raises(MySQLError, match="SELEC") as unknown:
        conn.run("SELECT 1 FROM my_db.SELEC")
    assert unknown.value.errno == 1146
    with pytest.raises(MySQLError, match="syntax error") as syntax:
        conn.run("ALTERR USER x IDENTIFIED BY %s", (AWKWARD,))
    assert "ä" not in str(syntax.value)
    for changes in ({"mysql_repl_password": Secret("no")}, {"mysql_repl_user": "nobody-here"}):
        with pytest.raises(AccessDenied):
            connection.remote(node.renamed(**changes), ADDRESS, 3306)
    with pytest.raises(AccessDenied, match="MYSQL_REPL_USER"):
        connection.remote(node.renamed(mysql_repl_user=None), ADDRESS, 3306)


def test_a_locked_account_is_denied(node: Node, conn: Connection) -> None:
    if not node.words.user_statements:
        pytest.skip("accounts cannot be locked")
    conn.run("ALTER USER repl@'%' ACCOUNT LOCK")
    with pytest.raises(AccessDenied):
        node.remote()
    conn.run("ALTER USER repl@'%' ACCOUNT UNLOCK")


def test_offline_mode_is_told_apart(node: Node, conn: Connection) -> None:
    if not conn.capabilities.offline_mode:
        pytest.skip("there is no offline_mode")
    plain = node.renamed(mysql_repl_user=node.settings.mysql_user)
    with connection.remote(plain, ADDRESS, 3306, timeout=20.0) as application:
        operations.close_server(conn)
        with pytest.raises(MySQLError) as cut:
            application.run("SELECT 1")
    assert isinstance(cut.value, ServerOffline | ServerUnreachable)
    with pytest.raises(ServerOffline):
        connection.remote(plain, ADDRESS, 3306)


def test_a_lost_connection(node: Node, conn: Connection) -> None:
    with node.local() as victim:
        conn.run("KILL %s", (victim.connection_id,))
        for _ in range(2):
            with pytest.raises(ServerUnreachable):
                victim.run("SELECT 1")
        victim.close()
        with pytest.raises(ServerUnreachable):
            victim.run("SELECT 1")


def test_nobody_there(node: Node) -> None:
    with pytest.raises(ServerUnreachable, match=f"{OTHER}:3306"):
        connection.remote(node.settings, OTHER, 3306)
    with pytest.raises(ServerUnreachable):
        connection.local(node.renamed(run_dir=node.directory))


def test_time_limits(node: Node, conn: Connection) -> None:
    assert conn.read_timeout == 20.0
    with contextlib.suppress(ZeroDivisionError), conn.timeout(5.0):
        assert conn.read_timeout == 5.0
        raise ZeroDivisionError
    assert conn.read_timeout == 20.0
    begun = time.monotonic()
    with pytest.raises(ServerUnreachable), conn.timeout(0.3):
        conn.run("DO SLEEP(60)")
    assert time.monotonic() - begun < 20
    with pytest.raises(ServerUnreachable):
        conn.run("SELECT 1")


def test_a_frozen_server_costs_its_time_limit_only(node: Node) -> None:
    assert node.process is not None
    with node.local(timeout=1.0) as before:
        node.process.freeze()
        begun = time.monotonic()
        with pytest.raises(ServerUnreachable):
            before.run("SELECT 1")
        with pytest.raises(ServerUnreachable):
            connection.remote(node.settings, ADDRESS, 3306, timeout=1.0)
        with pytest.raises(ServerUnreachable):
            connection.local(node.settings, timeout=1.0)
        assert time.monotonic() - begun < 20
        node.process.thaw()


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\x05\x00\x00\x00\x0a9.7\x00"]
)
def test_something_else_listens_there(node: Node, greeting: bytes) -> None:
    with socket.create_server((OTHER, 0)) as listener:
        port = listener.getsockname()[1]

        def greet() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(greeting)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(ServerUnreachable):
            connection.remote(node.settings, OTHER, port)
        thread.join()
