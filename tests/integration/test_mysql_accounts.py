"""Accounts and the database at founding, and what an existing database lacks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from manager.errors import MySQLError
from manager.mysql import accounts, connection, operations, semisync
from manager.mysql.connection import Connection
from manager.mysql.state import read_state
from manager.settings import Secret
from sandbox.packages import Packages
from tests.integration.mysql_nodes import AWKWARD, Node, nodes

pytestmark = pytest.mark.feature("accounts")

ADDRESS = "127.0.41.80"
# As the mysql client says it; without this an expired account cannot even log in.
CLIENT_HANDLES_EXPIRED_PASSWORDS = 1 << 22


@pytest.fixture
def node(each_mysql: Packages, server_directory: Path) -> Iterator[Node]:
    with nodes(each_mysql, server_directory, ADDRESS) as (node,):
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
    with (
        pytest.raises(pymysql.MySQLError, match="must (reset your password|SET PASSWORD)"),
        as_root(node, printed[0]) as root,
    ):
        root.cursor().execute("SELECT 1")
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
        cipher = remote.row("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        assert cipher is not None
        assert bool(cipher["Value"]) is node.has.tls
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

    words = node.words
    complete = None
    for statements in reversed(range(1, 25)):
        operations.let_hooks_write(conn)
        for user in ("app", "repl"):
            with contextlib.suppress(MySQLError):  # there is no IF EXISTS in 5.6
                conn.run("DROP USER %s@'%%'", (user,))
        conn.run("DROP DATABASE IF EXISTS my_db")
        conn.run(words.set_password("root@localhost"), ("",))
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
    assert "`my\\_db`.* TO `app`@`%`" in {grant.replace("'", "`") for grant in complete[0]}
    assert conn.value("SELECT COUNT(*) FROM mysql.user WHERE max_updates <> 0") == 0


def test_a_nodes_own_account_is_made_from_another_node(node: Node) -> None:
    """Again as well, with another password, and with the rights of the replication account alone."""
    node.found()
    uuid = "2955fc17-ea1e-11f1-b6bd-02fc00000001"
    with node.remote() as remote:
        before = read_state(remote).executed
        for password in ("first", AWKWARD):
            user = semisync.let_in(remote, uuid, password)
            assert len(user) <= node.words.longest_user
            settings = node.renamed(mysql_repl_user=user, mysql_repl_password=Secret(password))
            with connection.remote(settings, ADDRESS, 3306) as own:
                assert own.value("SELECT CURRENT_USER()") == f"{user}@%"
        assert read_state(remote).executed == before


def test_an_existing_database_gets_only_what_it_lacks(node: Node, conn: Connection) -> None:
    operations.let_hooks_write(conn)
    conn.run("CREATE USER app@'10.%' IDENTIFIED BY 'theirs'")
    conn.run(node.words.set_password("root@localhost"), ("theirs",))
    hashes = f"SELECT User, Host, {node.words.stored_password} AS hash FROM mysql.user ORDER BY User, Host"
    before = conn.rows(hashes)
    assert accounts.missing_accounts(conn, node.settings) == ("database my_db", "account repl")
    assert [row for row in conn.rows(hashes) if row["User"] != "repl"] == before
    assert "USAGE" in str(conn.rows("SHOW GRANTS FOR app@'10.%'"))
    assert accounts.missing_accounts(conn, node.settings) == ()


def test_no_password_is_in_the_binlog_or_the_log(node: Node, conn: Connection) -> None:
    accounts.bootstrap_accounts(conn, node.settings, lambda password: None)
    events = str(conn.rows("SHOW BINLOG EVENTS"))
    assert "repl" in events
    for text in (events, node.log.read_text()):
        assert AWKWARD not in text
        assert AWKWARD.split("\\")[0] not in text
