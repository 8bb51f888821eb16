"""my.cnf and the init file as text, and what the machine's memory is taken for."""

from __future__ import annotations

import configparser
import pwd
from dataclasses import replace
from pathlib import Path

import pytest

from manager.errors import ConfigError
from manager.mysql import config, initialise
from manager.mysql.dialect import MODERN
from manager.settings import Settings, load
from sandbox.packages import Packages

GIB = 2**30


@pytest.fixture
def settings(tmp_path: Path, packages: Packages) -> Settings:
    user = pwd.getpwuid(tmp_path.stat().st_uid).pw_name
    environ = {
        "NODE_NAME": "node-1",
        "NODE_ADDRESS": "198.18.0.7",
        "BACKUP_DRIVER": "local",
        "STORAGE_DIR": str(tmp_path),
        "MYSQL_REPL_USER": "repl",
        "MYSQL_REPL_PASSWORD": "top-secret",
        "MYSQL_CONF": str(tmp_path / "my.cnf"),
        "MYSQL_CONF_DIR": str(tmp_path / "conf.d"),
        "RUN_DIR": str(tmp_path / "run"),
        "MYSQLD_USER": user,
        "MYSQL_BINDIR": str(packages.mysql_bindir),
    }
    return load(environ)


def options(settings: Settings, memory: int = 10 * GIB) -> dict[str, str]:
    """The last value of each option, as mysqld would read it."""
    text = config.render(settings, MODERN, memory_limit_bytes=memory).replace("loose_", "")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("!"))
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(lines)
    return dict(parser["mysqld"])


def test_a_server_starts_closed_durable_and_without_replication(settings: Settings) -> None:
    found = options(settings)
    for name in ("read_only", "super_read_only", "offline_mode", "skip_replica_start", "event_scheduler"):
        assert found[name] == "ON"
    for name in (
        "gtid_mode",
        "enforce_gtid_consistency",
        "log_replica_updates",
        "replica_preserve_commit_order",
    ):
        assert found[name] == "ON"
    assert (found["sync_binlog"], found["innodb_flush_log_at_trx_commit"]) == ("1", "1")
    assert found["relay_log_recovery"] == "OFF"
    assert int(found["replica_net_timeout"]) <= 5


def test_no_secret_is_written(settings: Settings) -> None:
    config.write_config(settings)
    config.write_init_file(settings)
    for path in (settings.mysql_conf, config.init_file(settings)):
        assert "top-secret" not in path.read_text()
    assert config.init_file(settings).stat().st_mode & 0o777 == 0o600
    assert settings.mysql_conf.stat().st_mode & 0o777 == 0o644


def test_binlogs_are_kept_for_more_than_twice_the_ttl(settings: Settings) -> None:
    for ttl in (1, 86400, 2**31):
        kept = int(options(replace(settings, backup_ttl=ttl))["binlog_expire_logs_seconds"])
        assert 2 * ttl < kept < 2**32 or kept == 2**32 - 1


@pytest.mark.parametrize(
    ("given", "memory", "pool"),
    [
        (None, 10 * GIB, 7 * GIB),
        (None, 4 * 2**20, config.SMALLEST_POOL),
        (128 * 2**20, 10 * GIB, 128 * 2**20),
        (1, 10 * GIB, config.SMALLEST_POOL),
    ],
)
def test_buffer_pool(settings: Settings, given: int | None, memory: int, pool: int) -> None:
    found = options(replace(settings, innodb_buffer_pool_size=given), memory)
    assert abs(int(found["innodb_buffer_pool_size"]) - pool) <= 1


def test_the_file_goes_by_the_limit_of_this_node(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "memory_limit", lambda: GIB)
    config.write_config(settings)
    assert f"innodb_buffer_pool_size = {int(0.7 * GIB)}\n" in settings.mysql_conf.read_text()


@pytest.mark.parametrize(
    ("address", "bind", "admin"),
    [
        ("198.18.0.7", "*", "127.0.0.1"),
        ("127.0.33.11", "127.0.33.11", "127.0.33.11"),
        ("db.example", "*", "127.0.0.1"),
    ],
)
def test_addresses(settings: Settings, address: str, bind: str, admin: str) -> None:
    found = options(replace(settings, node_address=address, mysql_port=3310))
    assert (found["bind_address"], found["admin_address"]) == (bind, admin)
    assert (found["report_host"], found["report_port"], found["port"]) == (address, "3310", "3310")


def test_the_users_own_files_come_first_if_there_are_any(settings: Settings) -> None:
    assert "!includedir" not in config.render(settings, MODERN, memory_limit_bytes=GIB)
    settings.mysql_conf_dir.mkdir()
    text = config.render(settings, MODERN, memory_limit_bytes=GIB)
    assert text.index("secure_file_priv") < text.index(f"!includedir {settings.mysql_conf_dir}\n")
    assert text.index("!includedir") < text.index("super_read_only")


def test_server_ids_are_32_bits_never_zero_and_differ(settings: Settings) -> None:
    ids = {config.server_id(replace(settings, node_name=f"node-{n}")) for n in range(2000)}
    assert len(ids) == 2000
    assert all(0 < number < 2**32 for number in ids)
    assert config.server_id(settings) == config.server_id(settings)
    # One whose hash begins with 32 bits of nothing.
    assert config.server_id(replace(settings, node_name="node-4126006596")) == 1
    for name in ("db", "ZZZZ", "0000", "f", "mysql.shop.example"):
        assert 0 < config.server_id(replace(settings, node_name=name)) < 2**32


def test_the_init_file_has_one_plain_statement_per_semicolon(settings: Settings) -> None:
    config.write_config(settings)
    config.write_init_file(settings)
    text = config.init_file(settings).read_text()
    statements = text.split(";\n")
    assert statements.pop() == ""
    assert not any(";" in statement for statement in statements)
    assert statements.index("SET SESSION sql_log_bin = 0") < min(
        number for number, statement in enumerate(statements) if not statement.startswith("SET ")
    )
    assert statements[-1] == "SET GLOBAL super_read_only = ON"


def test_what_cannot_be_written_is_one_clear_line(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*my\.cnf"):
        config.write_config(replace(settings, mysql_conf=tmp_path / "file" / "my.cnf"))


def test_is_database(tmp_path: Path) -> None:
    assert not initialise.is_database(tmp_path)
    assert not initialise.is_database(tmp_path / "missing")
    (tmp_path / "mysql").mkdir()
    assert initialise.is_database(tmp_path)


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 8388608 kB\nMemFree: 1 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 8 * GIB),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1073741824\n"}, GIB),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 8 * GIB),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": str(2 * GIB)}, 2 * GIB),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/memory.max": str(99 * GIB)}, 8 * GIB),
        (
            {
                "proc/self/cgroup": "9:cpu:/x\n4:memory:/docker/1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
            },
            GIB,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/d\n",
                "sys/fs/cgroup/memory/d/memory.limit_in_bytes": "9223372036854771712",
            },
            8 * GIB,
        ),
    ],
)
def test_memory_limit(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    assert config.memory_limit(machine(tmp_path, files)) == limit


def test_this_machine_has_memory() -> None:
    assert config.memory_limit() > 64 * 2**20
