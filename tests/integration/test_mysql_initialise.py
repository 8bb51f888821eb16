"""Making a database, and starting it, or a foreign one, with the hooks' my.cnf and init file."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

import manager.node
from manager.errors import AutopilotError, ConfigError, TooManyConnections
from manager.mysql import config, connection, initialise, operations
from manager.mysql.state import LocalRow, read_state
from sandbox.packages import Packages
from tests.integration.mysql_nodes import Node, nodes

pytestmark = pytest.mark.feature("a new database, and each start closed")

ADDRESS = "127.0.41.20"


@pytest.fixture
def node(each_mysql: Packages, server_directory: Path) -> Iterator[Node]:
    with nodes(each_mysql, server_directory, ADDRESS) as (node,):
        yield node


def initialised(node: Node) -> Path:
    """An empty directory with a dot-file in it, as pre_start leaves it, then filled."""
    datadir = node.settings.mysql_datadir
    node.own(datadir)
    (datadir / ".autopilot-building").touch()
    config.write_config(node.settings)
    config.write_init_file(node.settings)
    assert [entry.name for entry in datadir.iterdir()] == [".autopilot-building"]
    initialise.initialise(node.settings)
    return datadir


def test_a_new_database(node: Node) -> None:
    assert not initialise.is_database(node.settings.mysql_datadir)
    datadir = initialised(node)
    assert initialise.is_database(datadir)
    assert (datadir / ".autopilot-building").exists()
    assert list(node.settings.run_dir.glob("initialise-*")) == []
    node.start()
    with node.local() as conn:
        state = read_state(conn)
        assert state.closed
        assert not state.executed
        assert state.replication is None
        assert state.row is None
        assert state.server_id == config.server_id(node.settings)
        assert state.binlog_file is not None
        accounts = [(row["u"], row["h"]) for row in conn.rows("SELECT User AS u, Host AS h FROM mysql.user")]
        ours = [(u, h) for u, h in accounts if not u.startswith("mysql.")]  # the server's own are locked
        assert sorted(ours) == [("autopilot", "localhost"), ("root", "localhost")]
        if initialise.ZONES.is_dir():
            zone = "SELECT CONVERT_TZ('2026-01-01', 'UTC', 'Asia/Tokyo')"
            assert str(conn.value(zone)) == "2026-01-01 09:00:00"


def test_each_start_closes_the_server_and_leaves_no_gtid(node: Node) -> None:
    node.start()
    node.found()
    before = node.state()
    assert before.serves
    node.kill()
    node.start()
    after = node.state()
    assert after.closed
    assert after.executed == before.executed
    assert after.row == before.row
    assert after.row == LocalRow(
        server_uuid=before.server_uuid,
        cluster_id="cluster",
        epoch=1,
        version=1,
        opened_epoch=1,
        record="{}",
    )


def test_a_foreign_database_with_unknown_passwords(node: Node) -> None:
    """Its root password is unknown, `autopilot` has another login, and persisted variables would open it."""
    node.start()
    with node.local() as conn:
        words = node.words
        operations.let_hooks_write(conn)
        conn.run(words.set_password("root@localhost"), ("unknown",))
        conn.run("DROP DATABASE autopilot")
        if words.public_key:  # as of 8.0, which also persists variables
            login = "IDENTIFIED WITH caching_sha2_password BY 'x' ACCOUNT LOCK"
            conn.run(f"ALTER USER autopilot@localhost {login}")
            for name in ("super_read_only", "read_only", "offline_mode"):
                conn.run(f"SET PERSIST_ONLY {name} = OFF")  # with 0 in its place 8.0.15 does not start
        else:
            conn.run(words.set_password("autopilot@localhost"), ("x",))
        executed = read_state(conn).executed
        root = f"SELECT User, {words.stored_password} AS hash FROM mysql.user WHERE User = 'root'"
        hashes = conn.rows(root)
    node.stop()
    node.start()
    with node.local() as conn:
        state = read_state(conn)
        assert state.closed
        assert state.read_only
        assert state.executed == executed
        assert conn.rows(root) == hashes
        assert conn.value("SELECT COUNT(*) FROM autopilot.lease") == 0
    assert "[ERROR]" not in node.log.read_text()


def test_only_the_hooks_user_may_log_in_as_autopilot(node: Node) -> None:
    node.start()
    file = connection.client_file(node.settings)
    with node.local() as conn:
        assert conn.value("SELECT CURRENT_USER()") == "autopilot@localhost"
        login = conn.row("SELECT plugin FROM mysql.user WHERE User = 'autopilot'")
        assert login is not None
        assert (login["plugin"] == "auth_socket") is conn.capabilities.auth_socket is not file.exists()
    if file.exists():
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.stat().st_uid == os.geteuid()
        before = file.read_text()
        node.stop()
        node.start()
        assert file.read_text() != before
        with pytest.raises(pymysql.OperationalError):
            pymysql.connect(unix_socket=str(node.settings.socket), user="autopilot", connect_timeout=20)
    with pytest.raises(pymysql.OperationalError):
        pymysql.connect(host=ADDRESS, user="autopilot", connect_timeout=20)


def test_the_application_may_use_all_connections(node: Node) -> None:
    """The socket has one connection more, for us; when that is gone too, the administrative port remains."""
    node.start("--max-connections=10")
    node.found()
    with node.local() as conn:
        port = conn.row("SHOW GLOBAL VARIABLES LIKE 'admin_port'")
    taken = []
    with contextlib.suppress(pymysql.OperationalError):
        while len(taken) < 20:
            taken.append(node.client())
    assert len(taken) == 10
    with node.local() as extra:
        assert extra.value("SELECT 1") == 1
        with pytest.raises(TooManyConnections):
            node.local()
        hook = manager.node.Node(node.settings)
        if port is not None:
            with node.admin() as admin:
                assert read_state(admin).serves
        else:
            with pytest.raises(TooManyConnections):
                hook.local()
            threading.Timer(0.3, extra.close).start()
        with hook.local(timeout=20.0) as got_in:
            assert read_state(got_in).serves
    for client in taken:
        client.close()


def test_version(node: Node) -> None:
    assert initialise.server_version(node.settings).startswith(f"{node.packages.server}.")


def test_what_goes_wrong_is_one_line(node: Node, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MYSQL_BINDIR: there is no mysqld"):
        initialise.server_version(node.renamed(mysql_bindir=tmp_path))
    datadir = node.settings.mysql_datadir
    node.own(datadir)
    (datadir / "not-a-database").touch()
    config.write_config(node.settings)
    with pytest.raises(AutopilotError) as failed:
        initialise.initialise(node.settings)
    assert "\n" not in str(failed.value)
    assert "files in it" in str(failed.value)


def test_semisync_is_refused_without_its_plugins(node: Node) -> None:
    wanted = node.renamed(durability="semisync")
    if list(node.packages.mysql_plugins.glob("semisync_*.so")):
        config.write_config(wanted)
        return
    with pytest.raises(ConfigError, match=r"DURABILITY: semisync needs semisync_\w+\.so and") as refused:
        config.write_config(wanted)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["MYSQL_USER", "MYSQL_REPL_USER"])
def test_a_user_whose_name_the_server_would_not_take(node: Node, name: str) -> None:
    fits = node.renamed(**{name.lower(): "u" * 16})
    config.write_config(fits)
    longer = node.renamed(**{name.lower(): "u" * 17})
    if node.packages.server != "5.6":
        config.write_config(longer)
        return
    with pytest.raises(ConfigError, match=f"{name}: must have at most 16 characters with MySQL 5.6"):
        config.write_config(longer)
