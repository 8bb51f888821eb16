"""Accounts and the database at founding, and what an existing database lacks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from manager.errors import MySQLError
from manager.mysql import accounts
from manager.mysql.connection import Connection
from manager.mysql.state import read_state
from manager.settings import Secret
from sandbox.packages import Packages
from tests.integration.mysql_nodes import AWKWARD, Node, nodes

ADDRESS = "127.0.41.80"
# As the mysql client says it; without this an expired account cannot even log in.
CLIENT_HANDLES_EXPIRED_PASSWORDS = 1 << 22


@pytest.fixture
def node(packages: Packages, server_directory: Path) -> Iterator[Node]:
    with nodes(packages, server_directory, ADDRESS) as (node,):
        node.start()
        yield node


@pytest.fixture
def conn(node: Node) -> Iterator[Connection]:
    with node.local() as connection:
        yield connection


def as_root(node: Node, password: str) -> pymysql.Connection[Any]:
    return pymysql.connect(
        unix_socket=str(node.settings.socket),
        user="root",
        password=password.encode(),
        connect_timeout=20,
        client_flag=CLIENT_HANDLES_EXPIRED_PASSWORDS,
    )


def never(password: str) -> None:
    raise AssertionError("a password was printed")


def grants(conn: Connection, user: str) -> set[str]:
    text = " ".join(next(iter(row.values())) for row in conn.rows("SHOW GRANTS FOR %s@'%%'", (user,)))
    return {part.strip() for part in text.replace("GRANT ", ",").replace(" ON ", ",").split(",")}


def test_bootstrap_on_a_closed_server(node: Node, conn: Connection) -> None:
    printed: list[str] = []
    accounts.bootstrap_accounts(conn, node.settings, printed.append)
    state = read_state(conn)
    assert state.closed
    assert state.executed.uuids == {state.server_uuid}
    assert len(printed) == 1
    # Logged in, but nothing is allowed before the password is changed.
    with pytest.raises(pymysql.OperationalError, match="must reset your password"):
        as_root(node, printed[0])
    before = state.executed
    accounts.bootstrap_accounts(conn, node.settings, never)
    assert accounts.missing_accounts(conn, node.settings) == ()
    assert read_state(conn).executed == before
    node.open(conn)
    with node.client() as client, client.cursor() as cursor:
        cursor.execute("CREATE TABLE my_db.t (id INT)")
        with pytest.raises(pymysql.MySQLError, match="denied"):
            # `_` in the database's name is no wildcard.
            cursor.execute("CREATE DATABASE myxdb")
    with node.remote() as remote:
        assert remote.value("SHOW SESSION STATUS LIKE 'Ssl_cipher'") is not None
        assert read_state(remote).serves
        with pytest.raises(MySQLError):
            remote.run("SELECT * FROM my_db.t")


@pytest.mark.parametrize("root", ["a'b\\c\"ł%s;#", "plain"])
def test_a_given_root_password_wins(node: Node, conn: Connection, root: str) -> None:
    settings = node.renamed(mysql_root_password=Secret(root))
    accounts.bootstrap_accounts(conn, settings, never)
    node.open(conn)
    with as_root(node, root) as session, session.cursor() as cursor:
        assert cursor.execute("SELECT 1") == 1


def test_no_root_password_at_all_locks_root(node: Node, conn: Connection) -> None:
    accounts.bootstrap_accounts(conn, node.renamed(mysql_random_root_password=False), never)
    with pytest.raises(pymysql.OperationalError):
        as_root(node, "")


def test_the_generated_password_need_not_expire(node: Node, conn: Connection) -> None:
    printed: list[str] = []
    accounts.bootstrap_accounts(conn, node.renamed(mysql_onetime_password=False), printed.append)
    with as_root(node, printed[0]) as session, session.cursor() as cursor:
        assert cursor.execute("SELECT 1") == 1


def test_bootstrap_converges_after_a_kill_at_any_point(node: Node, conn: Connection) -> None:
    """The session is killed before its n-th statement; the next run completes what is left."""

    class Killed(Exception):
        pass

    class Dying:
        row, value, run = Connection.row, Connection.value, Connection.run

        def __init__(self, inner: Connection, left: int) -> None:
            self.inner, self.left = inner, left

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def rows(self, sql: str, args: tuple[object, ...] = ()) -> object:
            self.left -= 1
            if self.left < 0:
                self.inner.close()
                raise Killed
            return self.inner.rows(sql, args)

    complete = None
    for statements in reversed(range(1, 25)):
        with contextlib.suppress(MySQLError):
            conn.run("SET GLOBAL super_read_only = 0")
        conn.run("DROP USER IF EXISTS app@'%', repl@'%'")
        conn.run("DROP DATABASE IF EXISTS my_db")
        conn.run("ALTER USER root@localhost IDENTIFIED BY ''")
        hook = Dying(node.local(), statements)
        with contextlib.suppress(Killed, MySQLError):
            accounts.bootstrap_accounts(hook, node.settings, lambda password: None)  # type: ignore[arg-type]
        accounts.bootstrap_accounts(conn, node.settings, lambda password: None)
        result = (grants(conn, "app"), grants(conn, "repl"))
        complete = complete or result
        assert result == complete
        with node.remote():
            pass
    assert complete is not None
    assert "`my\\_db`.* TO `app`@`%`" in complete[0]


def test_an_existing_database_gets_only_what_it_lacks(node: Node, conn: Connection) -> None:
    conn.run("SET GLOBAL super_read_only = 0")
    conn.run("CREATE USER app@'10.%' IDENTIFIED BY 'theirs'")
    conn.run("ALTER USER root@localhost IDENTIFIED BY 'theirs'")
    hashes = "SELECT User, Host, authentication_string FROM mysql.user ORDER BY User, Host"
    before = conn.rows(hashes)
    assert accounts.missing_accounts(conn, node.settings) == ("database my_db", "account repl")
    assert [row for row in conn.rows(hashes) if row["User"] != "repl"] == before
    assert "USAGE" in str(conn.rows("SHOW GRANTS FOR app@'10.%'"))
    assert accounts.missing_accounts(conn, node.settings) == ()


def test_no_password_is_in_the_binlog_or_the_log(node: Node, conn: Connection) -> None:
    accounts.bootstrap_accounts(conn, node.settings, lambda password: None)
    events = str(conn.rows("SHOW BINLOG EVENTS"))
    assert "CREATE USER" in events
    for text in (events, node.log.read_text()):
        assert AWKWARD not in text
        assert AWKWARD.split("\\")[0] not in text
