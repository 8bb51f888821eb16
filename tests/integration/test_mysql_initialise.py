"""Making a database, and starting it, or a foreign one, with the hooks' my.cnf and init file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from manager.errors import AutopilotError, ConfigError, TooManyConnections
from manager.mysql import config, initialise
from manager.mysql.state import LocalRow, read_state
from sandbox.packages import Packages
from tests.integration.mysql_nodes import Node, nodes

ADDRESS = "127.0.41.20"


@pytest.fixture
def node(packages: Packages, server_directory: Path) -> Iterator[Node]:
    with nodes(packages, server_directory, ADDRESS) as (node,):
        yield node


def initialised(node: Node) -> Path:
    """An empty directory with a dot-file in it, as pre_start leaves it, then filled."""
    datadir = node.settings.mysql_datadir
    node.own(datadir)
    (datadir / ".autopilot-building").touch()
    config.write_config(node.settings)
    config.write_init_file(node.settings)
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
        conn.run("SET GLOBAL super_read_only = 0")
        conn.run("ALTER USER root@localhost IDENTIFIED BY 'unknown'")
        conn.run("ALTER USER autopilot@localhost IDENTIFIED WITH caching_sha2_password BY 'x' ACCOUNT LOCK")
        conn.run("DROP DATABASE autopilot")
        conn.run("SET PERSIST_ONLY super_read_only = 0")
        conn.run("SET PERSIST_ONLY read_only = 0")
        conn.run("SET PERSIST_ONLY offline_mode = 0")
        executed = read_state(conn).executed
        hashes = conn.rows("SELECT User, authentication_string FROM mysql.user WHERE User = 'root'")
    node.stop()
    node.start()
    with node.local() as conn:
        state = read_state(conn)
        assert state.closed
        assert state.read_only
        assert state.executed == executed
        assert conn.rows("SELECT User, authentication_string FROM mysql.user WHERE User = 'root'") == hashes
        assert conn.value("SELECT COUNT(*) FROM autopilot.lease") == 0
    assert "[ERROR]" not in node.log.read_text()


def test_only_the_hooks_user_may_log_in_as_autopilot(node: Node) -> None:
    node.start()
    with node.local() as conn:
        assert conn.value("SELECT CURRENT_USER()") == "autopilot@localhost"
        login = conn.row(
            "SELECT plugin, authentication_string AS os_user FROM mysql.user WHERE User = 'autopilot'"
        )
        assert login is not None
        assert login["plugin"] == "auth_socket"
    with pytest.raises(pymysql.OperationalError):
        pymysql.connect(host=ADDRESS, user="autopilot", connect_timeout=20)


def test_the_application_may_use_all_connections(node: Node) -> None:
    """The socket has one connection more, for us; when that is gone too, the administrative port remains."""
    node.start("--max-connections=10")
    node.found()
    taken = []
    with contextlib.suppress(pymysql.OperationalError):
        while len(taken) < 20:
            taken.append(node.client())
    assert len(taken) == 10
    with node.local() as extra:
        assert extra.value("SELECT 1") == 1
        with pytest.raises(TooManyConnections):
            node.local()
        with node.admin() as admin:
            assert read_state(admin).serves
    for client in taken:
        client.close()


def test_version(node: Node) -> None:
    assert initialise.server_version(node.settings).startswith("9.7.")


def test_what_goes_wrong_is_one_line(node: Node, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MYSQL_BINDIR: there is no mysqld"):
        initialise.server_version(node.renamed(mysql_bindir=tmp_path))
    datadir = node.settings.mysql_datadir
    node.own(datadir)
    (datadir / "not-a-database").touch()
    config.write_config(node.settings)
    with pytest.raises(AutopilotError, match="mysqld failed") as failed:
        initialise.initialise(node.settings)
    assert "\n" not in str(failed.value)
    assert "files in it" in str(failed.value)
